"""From what stages measured to a better split."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pipemax_worker.contract.model_cut import ModelCut
from pipemax_worker.pipeline.layer_split import SplitCosts
from pipemax_worker.pipeline.measured_split import advise_split, with_measured_times


def costs_of(num_layers: int, light_layers: int = 0) -> SplitCosts:
    """By size a head of 1.6 layers; the first layers may be half as heavy as the others."""
    sizes = (50,) * light_layers + (100,) * (num_layers - light_layers)
    return SplitCosts(sizes, tuple(map(float, sizes)), 1, 1.0, 160, 160, 160.0)


def seconds_of(split: tuple[int, ...], of_layer: float, of_head: float) -> list[float]:
    seconds = [of_layer * count for count in split]
    return [*seconds[:-1], seconds[-1] + of_head]


def test_layers_and_head_are_told_apart() -> None:
    costs = with_measured_times(
        costs_of(64), ModelCut((15, 17, 17, 15)), seconds_of((15, 17, 17, 15), 2, 5)
    )
    assert costs.layer_seconds == pytest.approx((2.0,) * 64)
    assert costs.head_seconds == pytest.approx(5.0)
    assert costs.layer_bytes == costs_of(64).layer_bytes


def test_a_head_that_takes_longer_than_its_size_says_gives_its_layers_away() -> None:
    """To the stages in the middle first: the embedding is heavy already."""
    split = (15, 17, 17, 15)
    advice = advise_split(costs_of(64), ModelCut(split), seconds_of(split, 1.0, 5.0))
    assert advice.layers_of_stage == (16, 18, 17, 13)
    assert advice.time_share == pytest.approx(18 / 20)


def test_a_head_that_takes_no_time_gets_layers() -> None:
    split = (16, 17, 17, 14)
    advice = advise_split(costs_of(64), ModelCut(split), seconds_of(split, 1.0, 0.0))
    assert advice.layers_of_stage == (16, 16, 16, 16)
    assert advice.time_share == pytest.approx(16 / 17)


def test_as_good_as_it_gets() -> None:
    split = (16, 17, 17, 14)
    advice = advise_split(costs_of(64), ModelCut(split), seconds_of(split, 1.0, 3.0))
    assert (advice.layers_of_stage, advice.time_share) == (split, 1.0)


def test_parts_of_layers_are_told_apart() -> None:
    """An MLP is four fifths of a layer; the first stage leaves one to the second."""
    costs = replace(costs_of(4), mlp_bytes=(80,) * 4)
    cut = ModelCut((2, 2), (True, False))
    measured = with_measured_times(costs, cut, [1.2, 2.8 + 0.5])
    assert measured.layer_seconds == pytest.approx((1.0,) * 4)
    assert measured.head_seconds == pytest.approx(0.5)
    advice = advise_split(costs, cut, [1.2, 2.8 + 0.5])
    assert advice.layers_of_stage == (2, 2)
    assert advice.time_share == pytest.approx(2.5 / 3.3)


def test_unlike_layers_share_a_stages_time_by_their_size() -> None:
    costs = with_measured_times(costs_of(6, light_layers=2), ModelCut((4, 2)), [300.0, 260.0])
    assert costs.layer_seconds == pytest.approx((50.0, 50.0, 100.0, 100.0, 100.0, 100.0))
    assert costs.head_seconds == pytest.approx(60.0)


@pytest.mark.parametrize(
    ("split", "seconds"), [((8,), [3.0]), ((4, 4), [0.0, 0.0]), ((4, 4), [1.0, 0.0])]
)
def test_nothing_to_go_by(split: tuple[int, ...], seconds: list[float]) -> None:
    advice = advise_split(costs_of(8), ModelCut(split), seconds)
    assert (advice.layers_of_stage, advice.time_share) == (split, 1.0)
