"""Bias, penalties and the ban on early stops, against transformers and the plain formulas."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from pipemax_worker.contract.request import SamplingParams
from pipemax_worker.stage.sampling.penalties import Penalties
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

VOCAB_SIZE = 60
PROMPT = [4, 4, 17, 9]
OUTPUT = [17, 30, 30, 30, 2, 30]
CPU = torch.device("cpu")


def logits_of(seed: int = 0) -> torch.Tensor:
    return torch.randn(VOCAB_SIZE, generator=torch.Generator().manual_seed(seed)) * 3


def penalties_after_output(params: SamplingParams) -> Penalties:
    penalties = Penalties(params, PROMPT, VOCAB_SIZE, CPU)
    penalties.extend(OUTPUT[:2])
    for token_id in OUTPUT[2:]:
        penalties.extend([token_id])
    return penalties


def apply(params: SamplingParams, logits: torch.Tensor) -> torch.Tensor:
    return penalties_after_output(params).apply(logits, len(OUTPUT))


@pytest.mark.parametrize("penalty", [0.5, 1.1, 3.0])
def test_repetition_penalty_counts_prompt_and_output(penalty: float) -> None:
    logits = logits_of()
    expected = RepetitionPenaltyLogitsProcessor(penalty)(
        torch.tensor([PROMPT + OUTPUT]), logits[None].clone()
    )[0]
    assert torch.equal(apply(SamplingParams(9, repetition_penalty=penalty), logits), expected)


@pytest.mark.parametrize(("presence", "frequency"), [(0.7, 0.0), (0.0, 1.3), (-0.5, 0.25)])
def test_presence_and_frequency_count_the_output_alone(presence: float, frequency: float) -> None:
    """OpenAI: logit - count * frequency_penalty - (count > 0) * presence_penalty."""
    logits = logits_of()
    counts = Counter(OUTPUT)
    expected = [
        float(logit) - counts[token] * frequency - (counts[token] > 0) * presence
        for token, logit in enumerate(logits)
    ]
    params = SamplingParams(9, presence_penalty=presence, frequency_penalty=frequency)
    torch.testing.assert_close(apply(params, logits), torch.tensor(expected))


def test_logit_bias() -> None:
    logits, bias = logits_of(), {3: 5.0, 30: -100.0}
    expected = SequenceBiasLogitsProcessor({(token,): value for token, value in bias.items()})(
        torch.tensor([PROMPT]), logits[None].clone()
    )[0]
    torch.testing.assert_close(apply(SamplingParams(9, logit_bias=bias), logits), expected)


def test_all_together_in_transformers_order() -> None:
    """Bias, then repetition, then the ban."""
    logits, bias = logits_of(), {17: 2.5, 9: -1.0}
    params = SamplingParams(
        9, min_tokens=8, stop_token_ids=(2, 17), logit_bias=bias, repetition_penalty=1.7
    )
    processors = LogitsProcessorList(
        [
            SequenceBiasLogitsProcessor({(token,): value for token, value in bias.items()}),
            RepetitionPenaltyLogitsProcessor(1.7),
            MinNewTokensLengthLogitsProcessor(len(PROMPT), 8, [2, 17]),
        ]
    )
    expected = processors(torch.tensor([PROMPT + OUTPUT]), logits[None].clone())[0]
    torch.testing.assert_close(apply(params, logits), expected)


class TestMinTokens:
    params = SamplingParams(9, min_tokens=3, stop_token_ids=(2, 5))

    def test_stops_are_banned_before(self) -> None:
        banned = Penalties(self.params, PROMPT, VOCAB_SIZE, CPU).apply(logits_of(), 2)
        assert banned.isneginf().nonzero().flatten().tolist() == [2, 5]

    def test_stops_are_free_after(self) -> None:
        logits = logits_of()
        penalties = Penalties(self.params, PROMPT, VOCAB_SIZE, CPU)
        assert not penalties.is_neutral(2)
        assert penalties.is_neutral(3)
        assert torch.equal(penalties.apply(logits, 3), logits)


def test_the_models_logits_are_left_alone() -> None:
    logits = logits_of()
    before = logits.clone()
    apply(
        SamplingParams(9, repetition_penalty=2.0, presence_penalty=1.0, logit_bias={1: 1.0}), logits
    )
    assert torch.equal(logits, before)


def test_nothing_asked_nothing_done() -> None:
    penalties = penalties_after_output(SamplingParams(9, stop_token_ids=(2,)))
    assert penalties.is_neutral(0)
    logits = logits_of()
    assert penalties.apply(logits, 0) is logits


def test_ids_outside_the_vocabulary_cannot_be_produced_and_are_ignored() -> None:
    params = SamplingParams(
        9, min_tokens=99, stop_token_ids=(VOCAB_SIZE, 7), logit_bias={VOCAB_SIZE + 3: 9.0, 1: 1.0}
    )
    logits = logits_of()
    result = apply(params, logits)
    assert result.isneginf().nonzero().flatten().tolist() == [7]
    assert float(result[1]) == pytest.approx(float(logits[1]) + 1.0)
