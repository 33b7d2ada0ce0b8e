"""One direction between two tiers: a thread that carries out copy jobs in their order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.transfers import CopyJob, unpack_int32
from pipemax_worker.stage.kv.copiers import Copier, CopyOutcome, IssuingCopier


@dataclass(eq=False)
class OrderedCopy:
    """A job with what it must wait for.

    mark     what the device had been told to compute when the job was submitted.
    after    earlier copies of *other* links that touch the same slots (its own link is FIFO).
    issued   set when ``end`` is, an event that the device records when the copy is done; or, with
             no ``end``, when it has landed.
    """

    job: CopyJob
    mark: torch.cuda.Event | None
    after: tuple[OrderedCopy, ...] = ()
    landed: threading.Event = field(default_factory=threading.Event)
    issued: threading.Event = field(default_factory=threading.Event)
    end: torch.cuda.Event | None = None

    def __post_init__(self) -> None:
        self.reads = frozenset(unpack_int32(self.job.source_slots))
        self.writes = frozenset(unpack_int32(self.job.target_slots))

    def reads_any(self, tier: Tier, slots: frozenset[int]) -> bool:
        return self.job.source == tier and not self.reads.isdisjoint(slots)

    def writes_any(self, tier: Tier, slots: frozenset[int]) -> bool:
        return self.job.target == tier and not self.writes.isdisjoint(slots)

    def must_follow(self, earlier: OrderedCopy) -> bool:
        """Whether running beside ``earlier`` could read or leave wrong bytes in some slot."""
        source, target = self.job.source, self.job.target
        return (
            earlier.writes_any(source, self.reads)
            or earlier.writes_any(target, self.writes)
            or earlier.reads_any(target, self.writes)
        )


LandedCallback = Callable[[OrderedCopy, CopyOutcome | BaseException], None]


class CopyLink:
    """Runs ``copier`` on a thread of its own. ``on_landed`` is called on that thread.

    Waiting for copies of other links cannot deadlock: a copy waits only for copies submitted before
    it, and every link works in the order of submission.
    """

    def __init__(self, name: str, copier: Copier, on_landed: LandedCallback) -> None:
        self._copier = copier
        self._on_landed = on_landed
        self._queue: queue.SimpleQueue[OrderedCopy | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def mark(self) -> torch.cuda.Event | None:
        return self._copier.mark()

    def submit(self, copy: OrderedCopy) -> None:
        self._queue.put(copy)

    def close(self) -> None:
        """Return when everything submitted has been carried out."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (copy := self._queue.get()) is not None:
            for earlier in copy.after:
                earlier.landed.wait()
            try:
                outcome: CopyOutcome | BaseException = self._carry_out(copy)
            except BaseException as error:  # reported on the thread that computes
                outcome = error
            self._on_landed(copy, outcome)
            copy.issued.set()

    def _carry_out(self, copy: OrderedCopy) -> CopyOutcome:
        if not isinstance(self._copier, IssuingCopier):
            return self._copier.copy(copy.job, copy.mark)
        issued = self._copier.issue(copy.job, copy.mark)
        copy.end = issued.end
        copy.issued.set()
        return self._copier.finish(issued)
