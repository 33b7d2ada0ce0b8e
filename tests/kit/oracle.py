"""What transformers' own `generate` answers, with the margin of every choice.

The measure of exactness: greedy tokens must equal the oracle's up to the first position where the
oracle itself was undecided (its two best logits closer than ``TIE_MARGIN``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

TIE_MARGIN = 1e-4


@dataclass(frozen=True)
class OracleAnswer:
    """Greedy tokens for one prompt, and how far the best logit was above the second at each."""

    token_ids: tuple[int, ...]
    margins: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """``num_equal`` of ``num_compared`` positions; ``num_positions`` is all that could have been
    compared had the oracle never been undecided."""

    num_positions: int
    num_compared: int
    num_equal: int

    def __add__(self, other: Comparison) -> Comparison:
        return Comparison(
            self.num_positions + other.num_positions,
            self.num_compared + other.num_compared,
            self.num_equal + other.num_equal,
        )

    @property
    def share_compared(self) -> float:
        return self.num_compared / self.num_positions if self.num_positions else 1.0

    @property
    def is_exact(self) -> bool:
        return self.num_equal == self.num_compared


def ask_oracle(
    folder: Path, prompts: Sequence[Sequence[int]], max_tokens: Sequence[int]
) -> list[OracleAnswer]:
    """One unpadded greedy `generate` a prompt, float32 on the CPU; end of sequence is ignored."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    model.generation_config.eos_token_id = None
    return [_ask(model, prompt, count) for prompt, count in zip(prompts, max_tokens, strict=True)]


def _ask(model: torch.nn.Module, prompt: Sequence[int], max_tokens: int) -> OracleAnswer:
    input_ids = torch.tensor([list(prompt)])  # [1, num_prompt_tokens]
    with torch.inference_mode():
        output = model.generate(  # type: ignore[operator]
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            max_new_tokens=max_tokens,
            min_new_tokens=max_tokens,
            do_sample=False,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
            repetition_penalty=1.0,
        )
    margins = []
    for logits in output.logits:  # each [1, vocab]
        best = torch.topk(logits[0], 2).values
        margins.append(float(best[0] - best[1]))
    tokens = output.sequences[0, len(prompt) :].tolist()
    return OracleAnswer(tuple(tokens), tuple(margins))


def compare(answer: OracleAnswer, token_ids: Sequence[int]) -> Comparison:
    """Position by position, until the oracle is undecided. A first wrong token ends the
    comparison too, since all that follows it answers another prompt: what is left counts as
    compared and wrong."""
    num_positions = len(answer.token_ids)
    num_equal = 0
    for position, (expected, margin) in enumerate(
        zip(answer.token_ids, answer.margins, strict=True)
    ):
        if margin < TIE_MARGIN:
            return Comparison(num_positions, position, num_equal)
        if position >= len(token_ids) or token_ids[position] != expected:
            return Comparison(num_positions, num_positions, num_equal)
        num_equal += 1
    return Comparison(num_positions, num_positions, num_equal)
