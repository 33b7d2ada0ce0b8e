"""One stage of the simulated pipeline: its slots, its messages, its copies in flight."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from kit.kv_stages import conflicts
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.messages import ExecutorEvent, StageInput
from pipemax_worker.contract.transfers import CopyJob, CopyResult, unpack_int32


class SimulatedStage:
    """One stage: its slots, the messages it has not run, the copies that have not landed."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.slots: dict[tuple[Tier, int], list[int]] = {}
        self.messages: deque[StageInput] = deque()
        self.is_started = False
        self.last_forwarded = -1
        self.pending_copies: dict[tuple[Tier, Tier], deque[tuple[int, CopyJob]]] = {}
        self.order: list[CopyJob] = []  # all that have not landed, as submitted
        self.landed: list[CopyResult] = []
        self.outbox: deque[ExecutorEvent] = deque()

    def order_copies(self, sequence: int, jobs: Sequence[CopyJob]) -> None:
        for job in jobs:
            link = (job.source, job.target)
            self.pending_copies.setdefault(link, deque()).append((sequence, job))
            self.order.append(job)

    def must_wait(self, job: CopyJob) -> bool:
        """Whether an earlier copy uses a slot that ``job`` writes, or writes one that it reads."""
        earlier = self.order[: self.order.index(job)]
        return any(conflicts(other, job) for other in earlier)

    def stores_reading(self, slots: set[int]) -> list[CopyJob]:
        """Copies that have still to read one of these DEVICE slots."""
        return [
            job
            for job in self.order
            if job.source is Tier.DEVICE and slots.intersection(unpack_int32(job.source_slots))
        ]

    def has_loads_before(self, sequence: int) -> bool:
        loads = self.pending_copies.get((Tier.HOST, Tier.DEVICE), deque())
        return bool(loads) and loads[0][0] < sequence

    def links_with_copies(self) -> list[tuple[Tier, Tier]]:
        return [link for link, jobs in self.pending_copies.items() if jobs]
