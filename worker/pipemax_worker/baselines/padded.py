"""transformers' `generate` on padded batches."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import GenerationConfig

from pipemax_worker.baselines.orders import Answer, Order, Work


@torch.inference_mode()
def run_padded(model: Any, work: Work, order: Order) -> Answer:
    """Generate batch after batch; a batch runs until its longest output is complete, and what its
    other requests have generated beyond theirs is dropped."""
    answers: list[tuple[int, ...]] = [()] * len(work.prompts)
    start = time.perf_counter()
    for members in cut_batches(work, order):
        token_ids = _generate(model, [work.prompts[i] for i in members], _longest(work, members))
        for index, row in zip(members, token_ids, strict=True):
            answers[index] = tuple(row[: work.max_tokens[index]])
    return Answer(time.perf_counter() - start, tuple(answers))


def cut_batches(work: Work, order: Order) -> list[list[int]]:
    """Indices of the requests of each batch. Sorted by output length first (no step is wasted on
    requests that are done) or by total length (prompts are padded less)."""

    def key(index: int) -> tuple[int, int]:
        num_prompt, num_output = len(work.prompts[index]), work.max_tokens[index]
        return (num_output, num_prompt) if order.order == "output" else (num_prompt + num_output, 0)

    indices = sorted(range(len(work.prompts)), key=key)
    size = order.batch_size
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _longest(work: Work, members: list[int]) -> int:
    return max(work.max_tokens[index] for index in members)


def _generate(model: Any, prompts: list[tuple[int, ...]], num_tokens: int) -> list[list[int]]:
    """Left-padded, greedy, exactly ``num_tokens`` new tokens each."""
    width = max(map(len, prompts))
    input_ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    config = GenerationConfig(
        max_new_tokens=num_tokens, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    output = model.generate(input_ids, attention_mask=mask, generation_config=config)
    token_ids: list[list[int]] = output[:, width:].tolist()
    return token_ids
