"""A feed and a collector over a store in memory: a run without its loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kit.fake_run import FakeEngine
from kit.jobs import JobFolder
from kit.store import ManualClock, MemoryStore
from pipemax_worker.dataset.chain import RESULTS_PREFIX
from pipemax_worker.dataset.claims import RangeClaims
from pipemax_worker.dataset.fingerprint import build_fingerprint
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.dataset.ranges import MIN_RANGE_BYTES
from pipemax_worker.dataset.records import RecordHead, read_records
from pipemax_worker.runner.collector import Collector
from pipemax_worker.runner.feed import RequestFeed
from pipemax_worker.runner.preparation import build_processor, prepare_job


class Reading:
    """One life of a run. Another one over the same ``store`` is the next run, or a rival."""

    def __init__(
        self,
        job: JobFolder,
        store: MemoryStore | None = None,
        look_ahead: int = 8,
        range_bytes: int = MIN_RANGE_BYTES,
        worker: str = "worker-1",
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        prepared = prepare_job(job.write(changes), {})
        self.store = store or MemoryStore()
        self.ledger = Ledger.open_or_create(
            self.store, prepared.inputs, build_fingerprint(model="tiny"), range_bytes
        )
        self.engine = FakeEngine()
        self.clock = ManualClock()
        self.collector = Collector(self.ledger)
        self.feed = RequestFeed(
            self.store,
            RangeClaims(self.ledger, worker, self.clock),
            build_processor(prepared),
            self.collector,
            self.clock,
            look_ahead,
        )

    def turn(self) -> None:
        """One turn of a run's loop."""
        self.feed.fill(self.engine)
        self.collector.add_finished(self.engine.step())
        self.collector.flush()

    def run(self, max_turns: int = 1000, turn_seconds: float = 0.0) -> None:
        """To the end of the job."""
        for _ in range(max_turns):
            self.turn()
            self.clock.seconds += turn_seconds
            if self.feed.is_idle and not self.engine.has_unfinished_requests:
                self.collector.flush(everything=True)
                if self.feed.is_exhausted:
                    return
        raise AssertionError(f"not at the end after {max_turns} turns")

    def heads(self) -> list[RecordHead]:
        """Of all records in the store."""
        return [
            head
            for key in self.store.list(RESULTS_PREFIX)
            for head, _ in read_records(key, self.store.get(key))
        ]

    def offsets(self) -> list[int]:
        return sorted(head.pipemax.offset for head in self.heads())
