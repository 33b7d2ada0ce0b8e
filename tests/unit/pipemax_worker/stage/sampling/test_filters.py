"""Temperature, top-k, top-p, min-p: the distribution that transformers' warpers leave."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pipemax_worker.contract.request import SamplingParams
from pipemax_worker.stage.sampling.filters import (
    Candidates,
    _nucleus_by_bins,
    _nucleus_by_sorting,
    draw,
    filter_candidates,
)
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

VOCAB_SIZE = 500


def random_logits(seed: int, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(VOCAB_SIZE, generator=torch.Generator().manual_seed(seed)) * scale


def oracle_probabilities(logits: torch.Tensor, **params: Any) -> torch.Tensor:
    """transformers' warpers in the order in which its ``generate`` applies them."""
    warpers = LogitsProcessorList()
    if params.get("temperature", 1.0) != 1.0:
        warpers.append(TemperatureLogitsWarper(params["temperature"]))
    if params.get("top_k"):
        warpers.append(TopKLogitsWarper(params["top_k"]))
    if params.get("top_p", 1.0) < 1.0:
        warpers.append(TopPLogitsWarper(params["top_p"]))
    if params.get("min_p"):
        warpers.append(MinPLogitsWarper(params["min_p"]))
    scores = warpers(torch.zeros(1, 1, dtype=torch.long), logits[None].clone())
    return torch.softmax(scores[0].double(), 0)


def our_probabilities(logits: torch.Tensor, **params: Any) -> torch.Tensor:
    candidates = filter_candidates(logits, SamplingParams(max_tokens=1, **params))
    result = torch.zeros(len(logits), dtype=torch.float64)
    result[candidates.token_ids] = torch.softmax(candidates.logits.double(), 0)
    return result


PARAMS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.3},
    {"temperature": 1.8},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": VOCAB_SIZE + 5},
    {"top_p": 0.1},
    {"top_p": 0.9},
    {"top_p": 0.999},
    {"min_p": 0.02},
    {"min_p": 1.0},
    {"temperature": 0.7, "top_k": 40, "top_p": 0.8, "min_p": 0.05},
    {"temperature": 1.5, "top_k": 300, "top_p": 0.95},
]


@pytest.mark.parametrize("params", PARAMS, ids=str)
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_distribution_equals_transformers(params: dict[str, Any], scale: float) -> None:
    for seed in range(4):
        logits = random_logits(seed, scale)
        torch.testing.assert_close(
            our_probabilities(logits, **params),
            oracle_probabilities(logits, **params),
            atol=1e-6,
            rtol=1e-4,
        )


def test_ties_at_the_top_k_boundary_stay() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0, 2.0, 0.0])
    assert filter_candidates(logits, SamplingParams(1, top_k=2)).token_ids.tolist() == [1, 2, 3]


def test_top_p_of_zero_leaves_the_best() -> None:
    logits = random_logits(1)
    assert filter_candidates(logits, SamplingParams(1, top_p=0.0)).token_ids.tolist() == [
        int(logits.argmax())
    ]


def test_banned_tokens_are_never_candidates_of_a_filter() -> None:
    logits = random_logits(2)
    logits[:400] = -torch.inf
    for params in ({"top_k": 450}, {"top_p": 0.99}, {"min_p": 1e-6}):
        probabilities = our_probabilities(logits, **params)
        assert float(probabilities[:400].sum()) == 0.0
        assert float(probabilities.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300])
def test_tiny_temperatures_are_greedy(temperature: float) -> None:
    logits = random_logits(3)
    candidates = filter_candidates(logits, SamplingParams(1, temperature=temperature))
    assert all(int(draw(candidates, u)) == int(logits.argmax()) for u in (0.0, 0.5, 0.999999))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-60.0, 0.0, width=32), min_size=1, max_size=200),
    st.floats(0.0, 0.9999),
)
def test_bins_find_what_sorting_finds(values: list[float], top_p: float) -> None:
    """The kept mass differs by less than rounding, and every kept token is a best one."""
    logits = torch.tensor([0.0, *values])
    weights = logits.exp().double()
    by_bins = _nucleus_by_bins(logits, top_p)
    by_sorting = _nucleus_by_sorting(logits, top_p, 0.0, None)
    assert float((weights * (by_bins ^ by_sorting)).sum() / weights.sum()) < 1e-6
    if not by_bins.all():
        assert float(logits[by_bins].min()) >= float(logits[~by_bins].max())


class TestDraw:
    candidates = Candidates(torch.tensor([3, 8, 9]), torch.tensor([0.5, 0.25, 0.25]).log())

    @pytest.mark.parametrize(
        ("number", "token"), [(0.0, 3), (0.499, 3), (0.5, 8), (0.74, 8), (0.76, 9), (1 - 2**-53, 9)]
    )
    def test_walks_the_distribution_in_order_of_ids(self, number: float, token: int) -> None:
        assert int(draw(self.candidates, number)) == token

    def test_impossible_tokens_are_stepped_over(self) -> None:
        candidates = Candidates(torch.arange(3), torch.tensor([-torch.inf, 0.0, -torch.inf]))
        assert [int(draw(candidates, number)) for number in (0.0, 0.5, 0.999)] == [1, 1, 1]
