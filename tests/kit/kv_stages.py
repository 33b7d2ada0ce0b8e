"""Stages that hold only numbers: they carry out messages and copies on slots, at any speed.

A slot's content is a dictionary position -> KV value. Copies are queued as the contract says and
run when the test lets them, or when a forward must wait for them, or a later copy that touches the
same slot. A forward that reads anything but what it should raises AssertionError.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.transfers import CopyJob, CopyResult, unpack_int32

Content = dict[int, int]
GARBAGE: Content = {-1: -1}


@dataclass(frozen=True)
class Row:
    """What one request reads and writes: per block its slot and the values it must hold after."""

    device_slots: bytes
    expected: list[tuple[int, ...]]
    num_computed_tokens: int


Slots = set[tuple[Tier, int]]


def used_slots(job: CopyJob) -> tuple[Slots, Slots]:
    """What a copy reads and what it writes."""
    reads = {(job.source, slot) for slot in unpack_int32(job.source_slots)}
    return reads, {(job.target, slot) for slot in unpack_int32(job.target_slots)}


def conflicts(earlier: CopyJob, later: CopyJob) -> bool:
    """Whether the two copies give another result in the other order."""
    earlier_reads, earlier_writes = used_slots(earlier)
    later_reads, later_writes = used_slots(later)
    return bool(earlier_writes & (later_reads | later_writes) or earlier_reads & later_writes)


@dataclass
class Message:
    rows: list[Row] = field(default_factory=list)
    prefetch: list[CopyJob] = field(default_factory=list)
    background: list[CopyJob] = field(default_factory=list)
    stores_after: list[CopyJob] = field(default_factory=list)


class FakeStage:
    """One stage: its own bytes, its own pace. ``failing``: the (job id, position) that go wrong."""

    def __init__(self, num_slots: dict[Tier, int], block_tokens: int) -> None:
        self.memory = {tier: [dict(GARBAGE) for _ in range(n)] for tier, n in num_slots.items()}
        self.block_tokens = block_tokens
        self.messages: deque[Message] = deque()
        self.loads: deque[CopyJob] = deque()
        self.stores: deque[CopyJob] = deque()
        self.background: list[CopyJob] = []
        self.order: list[CopyJob] = []  # all that have not run, as submitted
        self.results: list[CopyResult] = []
        self.failing: set[tuple[int, int]] = set()

    def run_message(self, *, copies_at_once: bool) -> None:
        """Carry out the next message; ``copies_at_once`` runs its copies as soon as they may."""
        message = self.messages.popleft()
        self.loads.extend(message.prefetch)
        self.background.extend(message.background)
        self.order += [*message.prefetch, *message.background]
        if copies_at_once:
            self.run_all_copies()
        else:
            while self.loads and self.loads[0] not in message.prefetch:
                self._copy(self.loads[0])
        for row in message.rows:
            self._write(row)
        for row in message.rows:
            self._read(row)
        self.stores.extend(message.stores_after)
        self.order += message.stores_after
        if copies_at_once:
            self.run_all_copies()

    def run_copy(self, kind: int) -> None:
        """Run one waiting copy: loads and stores in order, background copies in any."""
        if kind == 0 and self.loads:
            self._copy(self.loads[0])
        elif kind == 1 and self.stores:
            self._copy(self.stores[0])
        elif kind >= 2 and self.background:
            self._copy(self.background[kind % len(self.background)])

    def run_all_copies(self) -> None:
        while self.order:
            self._copy(self.order[0])

    def _copy(self, job: CopyJob) -> None:
        """Run ``job``, and before it all earlier copies that touch one of its slots."""
        for earlier in self.order[: self.order.index(job)]:
            if earlier in self.order and conflicts(earlier, job):
                self._copy(earlier)
        self.order.remove(job)
        for queue in (self.loads, self.stores, self.background):
            if job in queue:
                queue.remove(job)
        self._carry_out(job)

    def _carry_out(self, job: CopyJob) -> None:
        failed = []
        pairs = zip(unpack_int32(job.source_slots), unpack_int32(job.target_slots), strict=True)
        for position, (source, target) in enumerate(pairs):
            if (job.job_id, position) in self.failing:
                failed.append(position)
                self.memory[job.target][target] = dict(GARBAGE)
            else:
                self.memory[job.target][target] = dict(self.memory[job.source][source])
        self.results.append(CopyResult(job.job_id, job.num_slots * 4096, 0.001, tuple(failed)))

    def _write(self, row: Row) -> None:
        slots = unpack_int32(row.device_slots)
        written = {
            (Tier.DEVICE, slot) for slot in slots[row.num_computed_tokens // self.block_tokens :]
        }
        for store in list(self.stores):
            if store in self.stores and used_slots(store)[0] & written:
                self._copy(store)
        for index, values in enumerate(row.expected):
            first = max(0, row.num_computed_tokens - index * self.block_tokens)
            content = self.memory[Tier.DEVICE][slots[index]]
            for position in range(first, len(values)):
                content[position] = values[position]

    def _read(self, row: Row) -> None:
        for slot, values in zip(unpack_int32(row.device_slots), row.expected, strict=True):
            self.check(Tier.DEVICE, slot, values)

    def check(self, tier: Tier, slot: int, values: tuple[int, ...]) -> None:
        content = self.memory[tier][slot]
        found = tuple(content.get(position) for position in range(len(values)))
        assert found == values, f"{tier.name} slot {slot} holds {found}, expected {values}"
