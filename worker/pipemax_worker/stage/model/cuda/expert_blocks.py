"""How the pairs of token and expert of a step are cut into blocks of one expert each. Pure.

The router's choice is known on the GPU alone, and a captured graph has fixed sizes. So a step gets
as many blocks as any choice could need, and those that are not needed return at once.
"""

from __future__ import annotations

from dataclasses import dataclass

LEAST_ROWS, MOST_ROWS = 16, 128
"""A tensor core's least; and what a thread block's registers hold of two accumulators."""

SPREAD = 1.25
"""An expert's pairs above the mean that still make one block: weights are read once a block."""


@dataclass(frozen=True)
class ExpertBlocks:
    """Sizes of a step's blocks, and how a thread block computes one.

    num_blocks       that any choice of experts fits in.
    rows             pairs of a block; the last block of an expert is padded.
    columns, depth   of the weights that one thread block works on, and reads at a time.
    """

    num_blocks: int
    rows: int
    columns: int
    depth: int
    num_warps: int
    num_stages: int


def plan_blocks(num_pairs: int, num_experts: int) -> ExpertBlocks:
    """For ``num_pairs`` pairs, however they fall on the experts.

    Tiles fit the 99 KiB of shared memory that a thread block has on consumer cards: rows and twice
    the columns (gate and up), times depth, of two bytes each, for every stage in flight.
    """
    rows = choose_rows(num_pairs, num_experts)
    is_large = rows == MOST_ROWS
    return ExpertBlocks(
        num_blocks=most_blocks(num_pairs, num_experts, rows),
        rows=rows,
        columns=64,
        depth=64,
        num_warps=8 if is_large else 4,
        num_stages=3,
    )


def choose_rows(num_pairs: int, num_experts: int) -> int:
    """The least power of two that holds an expert's pairs, if they are spread evenly or nearly."""
    expected = SPREAD * num_pairs / num_experts
    rows = LEAST_ROWS
    while rows < min(expected, MOST_ROWS):
        rows *= 2
    return rows


def most_blocks(num_pairs: int, num_experts: int, rows: int) -> int:
    """Of any choice: every expert's last block may hold one pair."""
    touched = min(num_pairs, num_experts)
    return touched + (num_pairs - touched) // rows
