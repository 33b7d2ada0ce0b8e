"""A micro-batch as index tensors: which tokens, at which positions, in which device slots.

Built once a step on the host from the driver's :class:`ScheduledRequest` values, and sent to the
device as one tensor, so that a step costs one copy and no wait for the device. Nothing here knows
layers or weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipemax_worker.contract.geometry import num_blocks_for
from pipemax_worker.contract.messages import ScheduledRequest
from pipemax_worker.errors import InvariantError

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HostIndices:
    """The same indices on the host, for whoever plans the kernels' work.

    query_starts   first row of each request, and the number of tokens at the end.
    context_lens   computed and new tokens of each request: what its last new token sees.
    table_starts   where each request's slots begin in ``block_tables``, and their total.
    """

    query_starts: Indices  # [num_requests + 1]
    context_lens: Indices  # [num_requests]
    table_starts: Indices  # [num_requests + 1]
    block_tables: Indices  # [sum of blocks]

    @property
    def num_new_tokens(self) -> Indices:  # [num_requests]
        return np.diff(self.query_starts)


@dataclass(frozen=True)
class Batch:
    """One micro-batch. All tensors are int64 on the stage's device.

    The new tokens of all requests lie one after the other, in the order of the schedule; request
    ``i`` owns rows ``query_starts[i]`` to ``query_starts[i + 1]``. ``block_tables`` holds the
    device slots of all requests one after the other; those of request ``i`` begin at
    ``table_starts[i]`` and its block ``k`` holds positions ``k * block_tokens`` and up.
    """

    num_tokens: int
    num_requests: int
    block_tokens: int
    sample_ids: tuple[int, ...]
    """Request ids of the rows in ``sample_rows``, in the same order."""

    positions: torch.Tensor  # [num_tokens]
    slots: torch.Tensor  # [num_tokens] device slot where each new token's KV goes
    offsets: torch.Tensor  # [num_tokens] its place inside that slot
    query_starts: torch.Tensor  # [num_requests + 1]
    context_lens: torch.Tensor  # [num_requests]
    table_starts: torch.Tensor  # [num_requests + 1]
    block_tables: torch.Tensor  # [sum of blocks]
    sample_rows: torch.Tensor  # [num_sampled]
    host: HostIndices


def build_batch(
    scheduled: Sequence[ScheduledRequest], block_tokens: int, device: torch.device
) -> Batch:
    """Turn the driver's schedule into index tensors on ``device``. Slots beyond the context are
    allowed and not read.

    Raises InvariantError if the schedule is empty, a request has no new tokens, or its slots do
    not cover its context.
    """
    host = _host_indices(scheduled, block_tokens)
    places = _token_places(host, block_tokens)
    sampled = [row for row, request in enumerate(scheduled) if request.needs_sample]
    tables = (host.query_starts, host.context_lens, host.table_starts, host.block_tables)
    tensors = _to_device((*places, *tables, host.query_starts[1:][sampled] - 1), device)
    positions, slots, offsets, query_starts, context_lens, *rest = tensors
    table_starts, block_tables, sample_rows = rest
    return Batch(
        num_tokens=positions.shape[0],
        num_requests=len(scheduled),
        block_tokens=block_tokens,
        sample_ids=tuple(scheduled[row].request_id for row in sampled),
        positions=positions,
        slots=slots,
        offsets=offsets,
        query_starts=query_starts,
        context_lens=context_lens,
        table_starts=table_starts,
        block_tables=block_tables,
        sample_rows=sample_rows,
        host=host,
    )


def _host_indices(scheduled: Sequence[ScheduledRequest], block_tokens: int) -> HostIndices:
    if not scheduled:
        raise InvariantError("a batch needs at least one scheduled request; the schedule is empty")
    num_new = np.array([request.num_new_tokens for request in scheduled], np.int64)
    computed = np.array([request.num_computed_tokens for request in scheduled], np.int64)
    num_blocks = np.array([len(request.device_slots) // 4 for request in scheduled], np.int64)
    context_lens = computed + num_new
    for index in np.flatnonzero(
        (num_new < 1) | (num_blocks * block_tokens < context_lens)
    ).tolist():
        request = scheduled[index]
        raise InvariantError(
            f"request {request.request_id}: {request.num_new_tokens} new tokens after "
            f"{request.num_computed_tokens} need "
            f"{num_blocks_for(int(context_lens[index]), block_tokens)} slots of {block_tokens} "
            f"tokens, the schedule has {num_blocks[index]}"
        )
    tables = np.frombuffer(b"".join(request.device_slots for request in scheduled), np.int32)
    return HostIndices(_starts(num_new), context_lens, _starts(num_blocks), tables.astype(np.int64))


def _starts(counts: Indices) -> Indices:
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


def _token_places(host: HostIndices, block_tokens: int) -> tuple[Indices, Indices, Indices]:
    """Position, slot and offset of every new token."""
    num_new = host.num_new_tokens
    first_position = host.context_lens - num_new - host.query_starts[:-1]
    positions = np.arange(host.query_starts[-1], dtype=np.int64) + np.repeat(
        first_position, num_new
    )
    table_start = np.repeat(host.table_starts[:-1], num_new)
    slots = host.block_tables[table_start + positions // block_tokens]
    return positions, slots, positions % block_tokens


def _to_device(parts: Sequence[Indices], device: torch.device) -> tuple[torch.Tensor, ...]:
    packed = torch.from_numpy(np.concatenate(parts))
    if device.type != "cpu":
        packed = packed.pin_memory().to(device, non_blocking=True)
    return tuple(torch.split_with_sizes(packed, [len(part) for part in parts]))
