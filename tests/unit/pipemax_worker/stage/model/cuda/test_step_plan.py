"""Which rows decode, which pages are read, and how few shapes there are."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st
from pipemax_worker.contract.messages import ScheduledRequest
from pipemax_worker.contract.transfers import pack_int32
from pipemax_worker.stage.batch import build_batch
from pipemax_worker.stage.model.cuda.gemm_table import GemmTable
from pipemax_worker.stage.model.cuda.step_plan import (
    MAX_GRAPH_PROMPTS,
    MAX_GRAPH_ROWS,
    PlanLimits,
    StepPlan,
    exact_shape,
    padded_shape,
    plan_step,
    round_up_quarter,
)

LIMITS = PlanLimits(
    heads_per_kv_head=4,
    num_kv_heads=2,
    head_dim=64,
    block_tokens=4,
    max_partial_results=4096,
    chunk_tokens=64,
)
TABLE = GemmTable((8, 16, 24), {"all": {"cublas": (3.0, 2.0, 4.0), "cublaslt": (9.0,) * 3}})
ROWS = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 40)), min_size=1, max_size=12)


def planned(
    rows: list[tuple[int, int]], spare_blocks: int = 0, limits: PlanLimits = LIMITS
) -> StepPlan:
    """Requests given as (computed, new) tokens; slots count up from 0."""
    scheduled, first = [], 0
    for number, (computed, new) in enumerate(rows):
        num_blocks = -(-(computed + new) // 4) + spare_blocks
        slots = pack_int32(list(range(first, first + num_blocks)))
        scheduled.append(ScheduledRequest(number, computed, new, None, slots, True))
        first += num_blocks
    return plan_step(build_batch(scheduled, 4, torch.device("cpu")).host, limits)


def test_leading_rows_of_one_token_decode() -> None:
    plan = planned([(7, 1), (0, 1), (0, 9), (30, 1)])
    assert plan.decode.num_new.tolist() == [1, 1]
    assert plan.decode.context_lens.tolist() == [8, 1]
    assert plan.prompts.num_new.tolist() == [9, 1]
    assert (plan.prompts.first_row, plan.prompts.num_rows) == (2, 10)


def test_one_kind_alone() -> None:
    assert planned([(0, 5)]).decode.num_rows == 0
    assert planned([(5, 1)]).prompts.num_rows == 0


def test_slots_beyond_the_context_are_left_out() -> None:
    plan = planned([(7, 1), (0, 2)], spare_blocks=1)
    assert plan.pages.tolist() == [0, 1, 3]
    assert plan.page_starts.tolist() == [0, 2, 3]


@given(ROWS)
def test_a_padded_shape_holds_the_exact_one(rows: list[tuple[int, int]]) -> None:
    plan = planned(rows)
    exact, padded = exact_shape(plan), padded_shape(plan)
    for part in ("decode", "prompts"):
        small, large = getattr(exact, part), getattr(padded, part)
        assert small.num_rows <= large.num_rows
        assert small.num_rows == 0 or small.num_requests < large.num_requests
        assert small.num_tiles <= large.num_tiles <= max(32, 1.25 * small.num_tiles + 1)
        assert small.num_rows == 0 or small.tile_rows == large.tile_rows
        assert (small.num_rows == 0) == (large.num_rows == 0)
    num_rows = exact.num_rows
    assert num_rows <= padded.num_rows < num_rows + (8 if padded.prompts_start is None else 16)
    assert exact.num_sampled <= padded.num_sampled < exact.num_sampled + 32
    if padded.prompts_start is not None:
        assert exact.decode.num_rows <= padded.prompts_start
        assert padded.prompts_start + padded.prompts.num_rows == padded.num_rows


def test_steps_of_like_size_share_a_shape() -> None:
    shapes = {padded_shape(planned([(200 + 5 * n, 1) for n in range(k)])) for k in range(17, 25)}
    assert len({shape.decode.num_rows for shape in shapes}) == 1
    assert len(shapes) <= 3


def test_decoding_rows_and_prompts_share_their_padding() -> None:
    """Where they meet does not matter, unless prompts are cut into chunks."""
    shapes = {padded_shape(planned([(40, 1)] * n + [(0, 60 - n)])) for n in range(20, 25)}
    assert len(shapes) == 1
    assert shapes.pop().num_rows == 64
    chunked = {padded_shape(planned([(40, 1)] * n + [(90, 60 - n)])) for n in (31, 33)}
    assert {shape.prompts_start for shape in chunked} == {32, 40}


def test_prompts_beside_decoding_rows_are_not_cut() -> None:
    limits = replace(LIMITS, chunk_tokens=None)
    beside = planned([(9, 1), (1900, 100)], limits=limits)
    assert not beside.prompts.tiles.is_split
    assert planned([(1900, 100)], limits=limits).prompts.tiles.is_split
    assert planned([(9, 1), (20_000, 100)], limits=limits).prompts.tiles.is_split


def test_row_counts_are_the_tables() -> None:
    assert padded_shape(planned([(40, 1)] * 5), TABLE).num_rows == 16
    assert padded_shape(planned([(40, 1)] * 17), TABLE).num_rows == 24


def test_large_steps_are_not_captured() -> None:
    many = planned([(0, 2)] * (MAX_GRAPH_PROMPTS + 1))
    assert not padded_shape(many).can_be_captured
    assert not padded_shape(planned([(0, MAX_GRAPH_ROWS + 1)])).can_be_captured
    assert padded_shape(planned([(9, 1)] * 64 + [(0, 100)])).can_be_captured


def test_tile_counts_have_four_steps_an_octave() -> None:
    assert [round_up_quarter(n, 32) for n in (0, 1, 32, 33, 41, 64, 65, 500)] == [
        0, 32, 32, 40, 48, 64, 80, 512,
    ]  # fmt: skip
