"""A micro-batch as index arrays: which tokens, at which positions, in which device slots.

Built once a step on the host from the driver's :class:`ScheduledRequest` values. Kernels that
take tensors of indices ask the batch for them: they are sent to the device as one tensor, so that
a step costs one copy and no wait for the device. Nothing here knows layers or weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from pipemax_worker.contract.geometry import num_blocks_for
from pipemax_worker.contract.messages import ScheduledRequest
from pipemax_worker.contract.transfers import unpack_int32
from pipemax_worker.errors import InvariantError

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HostIndices:
    """The micro-batch on the host.

    positions      of each new token.
    slots          device slot where each new token's KV goes; ``offsets``: its place in the slot.
    query_starts   first row of each request, and the number of tokens at the end.
    context_lens   computed and new tokens of each request: what its last new token sees.
    table_starts   where each request's slots begin in ``block_tables``, and their total.
    sample_rows    rows whose logits are sampled.
    """

    positions: Indices  # [num_tokens]
    slots: Indices  # [num_tokens]
    offsets: Indices  # [num_tokens]
    query_starts: Indices  # [num_requests + 1]
    context_lens: Indices  # [num_requests]
    table_starts: Indices  # [num_requests + 1]
    block_tables: Indices  # [sum of blocks]
    sample_rows: Indices  # [num_sampled]

    @property
    def num_new_tokens(self) -> Indices:  # [num_requests]
        return np.diff(self.query_starts)


@dataclass(frozen=True)
class DeviceIndices:
    """The same arrays as int64 tensors on the stage's device."""

    positions: torch.Tensor
    slots: torch.Tensor
    offsets: torch.Tensor
    query_starts: torch.Tensor
    context_lens: torch.Tensor
    table_starts: torch.Tensor
    block_tables: torch.Tensor
    sample_rows: torch.Tensor


@dataclass(frozen=True)
class Batch:
    """One micro-batch.

    The new tokens of all requests lie one after the other, in the order of the schedule; request
    ``i`` owns rows ``query_starts[i]`` to ``query_starts[i + 1]``. ``block_tables`` holds the
    device slots of all requests one after the other; those of request ``i`` begin at
    ``table_starts[i]`` and its block ``k`` holds positions ``k * block_tokens`` and up.
    """

    block_tokens: int
    sample_ids: tuple[int, ...]
    """Request ids of the rows in ``sample_rows``, in the same order."""

    device: torch.device
    host: HostIndices
    fed_back: Indices | None = None
    """[num_tokens] Where on the device (``device_tokens``) the ids of tokens are that the host does
    not know yet; -1 for all others. None: it knows all."""

    @property
    def num_tokens(self) -> int:
        return len(self.host.positions)

    @property
    def num_requests(self) -> int:
        return len(self.host.context_lens)

    @cached_property
    def indices(self) -> DeviceIndices:
        """Made when first asked for."""
        host = self.host
        parts = (
            *(host.positions, host.slots, host.offsets, host.query_starts),
            *(host.context_lens, host.table_starts, host.block_tables, host.sample_rows),
        )
        return DeviceIndices(*_to_device(parts, self.device))


def build_batch(
    scheduled: Sequence[ScheduledRequest], block_tokens: int, device: torch.device
) -> Batch:
    """Turn the driver's schedule into index arrays. Slots beyond the context are allowed and not
    read.

    Raises InvariantError if the schedule is empty, a request has no new tokens, or its slots do
    not cover its context.
    """
    sampled = [row for row, request in enumerate(scheduled) if request.needs_sample]
    return Batch(
        block_tokens=block_tokens,
        sample_ids=tuple(scheduled[row].request_id for row in sampled),
        device=device,
        host=_host_indices(scheduled, sampled, block_tokens),
    )


def _host_indices(
    scheduled: Sequence[ScheduledRequest], sampled: list[int], block_tokens: int
) -> HostIndices:
    if not scheduled:
        raise InvariantError("a batch needs at least one scheduled request; the schedule is empty")
    num_new = np.array([request.num_new_tokens for request in scheduled], np.int64)
    computed = np.array([request.num_computed_tokens for request in scheduled], np.int64)
    num_blocks = np.array([len(request.device_slots) // 4 for request in scheduled], np.int64)
    _check(scheduled, num_blocks, block_tokens)
    tables = np.frombuffer(b"".join(request.device_slots for request in scheduled), np.int32)
    query_starts, table_starts = _starts(num_new), _starts(num_blocks)
    first_position = computed - query_starts[:-1]
    positions = np.arange(query_starts[-1], dtype=np.int64) + np.repeat(first_position, num_new)
    blocks, offsets = np.divmod(positions, block_tokens)
    block_tables = tables.astype(np.int64)
    return HostIndices(
        positions=positions,
        slots=block_tables[np.repeat(table_starts[:-1], num_new) + blocks],
        offsets=offsets,
        query_starts=query_starts,
        context_lens=computed + num_new,
        table_starts=table_starts,
        block_tables=block_tables,
        sample_rows=query_starts[1:][sampled] - 1,
    )


def _check(scheduled: Sequence[ScheduledRequest], num_blocks: Indices, block_tokens: int) -> None:
    for request, available in zip(scheduled, num_blocks.tolist(), strict=True):
        context_len = request.num_computed_tokens + request.num_new_tokens
        if request.num_new_tokens < 1 or available * block_tokens < context_len:
            raise InvariantError(
                f"request {request.request_id}: {request.num_new_tokens} new tokens after "
                f"{request.num_computed_tokens} need {num_blocks_for(context_len, block_tokens)} "
                f"slots of {block_tokens} tokens, the schedule has {available}"
            )


def _starts(counts: Indices) -> Indices:
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def _to_device(parts: Sequence[Indices], device: torch.device) -> tuple[torch.Tensor, ...]:
    packed = torch.from_numpy(np.concatenate(parts))
    if device.type != "cpu":
        packed = packed.pin_memory().to(device, non_blocking=True)
    return tuple(torch.split_with_sizes(packed, [len(part) for part in parts]))


def written_slots(scheduled: Sequence[ScheduledRequest], block_tokens: int) -> Iterator[int]:
    """Device slots that the new tokens go to. Lazy: needed only while stores are under way."""
    for row in scheduled:
        first_block = row.num_computed_tokens // block_tokens
        yield from unpack_int32(row.device_slots[4 * first_block :])
