"""One step's work for FlashInfer, and the shapes that steps are padded to. Pure.

Rows of decoding requests, one each, come first; then those of prompt chunks: two attention launches
beside one batch of matrix products (one launch for both would give decoding rows the large tiles of
prompts).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pipemax_worker.stage.batch import HostIndices
from pipemax_worker.stage.model.cuda.gemm_table import GemmTable
from pipemax_worker.stage.model.cuda.tiles import (
    Int64s,
    Tiles,
    choose_chunk_tokens,
    choose_tile_rows,
    plan_tiles,
)

MAX_GRAPH_ROWS = 768
"""Above it a step computes long enough to hide its launches."""

MAX_GRAPH_PROMPTS = 16
SAMPLED_MULTIPLE = 32
"""The LM head takes as long for 32 rows as for one: it reads its weights."""

MAX_WHOLE_CONTEXT = 2048
"""Contexts of prompts up to it are not cut into chunks beside decoding rows: those take longer."""

NO_TILE_ROWS = 128
"""Of a part without rows: any one value."""


@dataclass(frozen=True)
class PlanLimits:
    """What a stage's plans depend on besides the batch.

    chunk_tokens          of one attention tile; None: what makes the launch shortest.
    max_partial_results   rows of attention that the workspace holds before they are merged.
    """

    heads_per_kv_head: int
    num_kv_heads: int
    head_dim: int
    block_tokens: int
    max_partial_results: int
    chunk_tokens: int | None = None


@dataclass(frozen=True)
class Part:
    """The decoding requests of a batch, or its prompt chunks: rows ``first_row`` and on."""

    first_row: int
    num_new: Int64s  # [num_requests]
    context_lens: Int64s  # [num_requests]
    tiles: Tiles

    @property
    def num_requests(self) -> int:
        return len(self.num_new)

    @property
    def num_rows(self) -> int:
        return len(self.tiles.merge_starts) - 1


@dataclass(frozen=True)
class StepPlan:
    """A batch cut in two. ``page_starts`` and ``pages``: the blocks that requests really use."""

    host: HostIndices
    decode: Part
    prompts: Part
    page_starts: Int64s  # [num_requests + 1]
    pages: Int64s


@dataclass(frozen=True)
class PartShape:
    """Sizes of one part, padding included: rows are those that its launches may touch."""

    num_rows: int
    num_requests: int
    num_tiles: int
    tile_rows: int
    is_split: bool


@dataclass(frozen=True)
class StepShape:
    """Sizes of a step: what a captured graph is good for.

    prompts_start   the row where prompts begin; None: right behind the decoding rows, wherever
                    these end, which the tables say. (Rows of prompts that are merged from several
                    chunks must begin at a place that the graph knows.)
    """

    num_rows: int
    decode: PartShape
    prompts: PartShape
    prompts_start: int | None
    num_sampled: int
    is_fed_back: bool = False
    """Whether some token ids are on the device already."""

    @property
    def can_be_captured(self) -> bool:
        return self.num_rows <= MAX_GRAPH_ROWS and self.prompts.num_requests <= MAX_GRAPH_PROMPTS


def plan_step(host: HostIndices, limits: PlanLimits) -> StepPlan:
    """Cut a batch in two and its attention into tiles.

    Chunks of one token that follow a longer one are taken as prompts: slower, and as right.
    """
    num_new = host.num_new_tokens
    longer = np.flatnonzero(num_new > 1)
    num_decode = int(longer[0]) if len(longer) else len(num_new)
    num_pages = -(-host.context_lens // limits.block_tokens)
    page_starts = np.zeros(len(num_pages) + 1, np.int64)
    np.cumsum(num_pages, out=page_starts[1:])
    return StepPlan(
        host,
        _plan_part(num_new[:num_decode], host.context_lens[:num_decode], 0, limits),
        _plan_part(
            num_new[num_decode:],
            host.context_lens[num_decode:],
            num_decode,
            _prompt_limits(host.context_lens[num_decode:], num_decode, limits),
        ),
        page_starts,
        _used_blocks(host, num_pages),
    )


def _prompt_limits(context_lens: Int64s, num_decode: int, limits: PlanLimits) -> PlanLimits:
    longest = int(context_lens.max(initial=1))
    if num_decode == 0 or longest > MAX_WHOLE_CONTEXT or limits.chunk_tokens is not None:
        return limits
    return replace(limits, chunk_tokens=longest)


def _plan_part(num_new: Int64s, context_lens: Int64s, first_row: int, limits: PlanLimits) -> Part:
    num_rows = int(num_new.sum())
    group = limits.heads_per_kv_head
    tile_rows = choose_tile_rows(num_rows, len(num_new), group, limits.head_dim)
    chunk_tokens = limits.chunk_tokens or choose_chunk_tokens(
        num_new, context_lens, group, limits.num_kv_heads, tile_rows, limits.max_partial_results
    )
    tiles = plan_tiles(num_new, context_lens, group, tile_rows, chunk_tokens)
    return Part(first_row, num_new, context_lens, tiles)


def _used_blocks(host: HostIndices, num_pages: Int64s) -> Int64s:
    """The block tables without slots that lie beyond the contexts."""
    starts = host.table_starts
    if int(num_pages.sum()) == int(starts[-1]):
        return host.block_tables
    place = np.arange(int(starts[-1])) - np.repeat(starts[:-1], np.diff(starts))
    return host.block_tables[place < np.repeat(num_pages, np.diff(starts))]


def exact_shape(plan: StepPlan) -> StepShape:
    """Without padding."""
    decode, prompts = _exact_part(plan.decode), _exact_part(plan.prompts)
    num_rows = decode.num_rows + prompts.num_rows
    return StepShape(num_rows, decode, prompts, decode.num_rows, len(plan.host.sample_rows))


def _exact_part(part: Part) -> PartShape:
    tiles = part.tiles
    return PartShape(
        part.num_rows, part.num_requests, tiles.num_tiles, tiles.tile_rows, tiles.is_split
    )


def padded_shape(plan: StepPlan, table: GemmTable | None = None) -> StepShape:
    """The next larger of the shapes that graphs are captured for: of row counts that are fast by
    ``table``. There is always a request more than there are: one without rows, whose tiles those
    are that only pad."""
    num_decode, num_prompt_rows = plan.decode.num_rows, plan.prompts.num_rows
    start = round_up(num_decode, 8) if plan.prompts.tiles.is_split else None
    num_rows = round_up((num_decode if start is None else start) + num_prompt_rows, 8)
    if table is not None:
        num_rows = table.padded_rows(num_rows)
    num_prompts = plan.prompts.num_requests
    decode_rows = num_rows if start is None else start
    return StepShape(
        num_rows,
        _padded_part(plan.decode, decode_rows, decode_rows + 1),
        _padded_part(
            plan.prompts, num_rows - (start or 0), round_up(num_prompts + 1, MAX_GRAPH_PROMPTS)
        ),
        start,
        round_up(len(plan.host.sample_rows), SAMPLED_MULTIPLE),
    )


def _padded_part(part: Part, num_rows: int, num_requests: int) -> PartShape:
    if part.num_rows == 0:
        return PartShape(0, 0, 0, NO_TILE_ROWS, False)
    tiles = part.tiles
    num_tiles = round_up_quarter(tiles.num_tiles, 32)
    return PartShape(num_rows, num_requests, num_tiles, tiles.tile_rows, tiles.is_split)


def round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def round_up_quarter(number: int, least: int) -> int:
    """To the next of ``least``, and above it of four steps an octave; 0 stays 0."""
    if number == 0:
        return 0
    if number <= least:
        return least
    step = max(1, 1 << (number - 1).bit_length() - 3)
    return round_up(number, step)
