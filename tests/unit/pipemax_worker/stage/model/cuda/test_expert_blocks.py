"""Blocks of pairs: always enough of them, and within a thread block's memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipemax_worker.stage.model.cuda.expert_blocks import (
    LEAST_ROWS,
    MOST_ROWS,
    choose_rows,
    most_blocks,
    plan_blocks,
)

CONSUMER_SHARED_BYTES = 99 << 10


@given(st.lists(st.integers(0, 200), min_size=1, max_size=40), st.sampled_from([16, 32, 64, 128]))
def test_any_choice_fits(pairs_of_expert: list[int], rows: int) -> None:
    needed = sum(-(-pairs // rows) for pairs in pairs_of_expert)
    assert needed <= most_blocks(sum(pairs_of_expert), len(pairs_of_expert), rows)


@pytest.mark.parametrize(("num_pairs", "num_experts"), [(1, 8), (9, 8), (256, 8), (1000, 60)])
def test_no_more_than_the_worst_choice_needs(num_pairs: int, num_experts: int) -> None:
    """One pair for each expert, and the others in whole blocks of the first."""
    rows = choose_rows(num_pairs, num_experts)
    touched = min(num_pairs, num_experts)
    worst = [1 + (num_pairs - touched) // rows * rows] + [1] * (touched - 1)
    assert most_blocks(num_pairs, num_experts, rows) == sum(-(-n // rows) for n in worst)


@pytest.mark.parametrize(
    ("num_pairs", "num_experts", "rows"),
    [(2, 8, 16), (8 * 12, 8, 16), (8 * 25, 8, 32), (8 * 26, 8, 64), (10**5, 8, 128)],
)
def test_rows_hold_an_experts_pairs(num_pairs: int, num_experts: int, rows: int) -> None:
    assert choose_rows(num_pairs, num_experts) == rows


@given(st.integers(1, 10**5), st.integers(1, 512))
def test_tiles_fit_consumer_cards(num_pairs: int, num_experts: int) -> None:
    blocks = plan_blocks(num_pairs, num_experts)
    assert LEAST_ROWS <= blocks.rows <= MOST_ROWS
    tile_bytes = (blocks.rows + 2 * blocks.columns) * blocks.depth * 2
    assert tile_bytes * blocks.num_stages <= CONSUMER_SHARED_BYTES
