"""How far a job came, from what lies in its output location alone: for ``pipemax status``.

Works while the job runs, after it was killed, in a retry, and when it ended.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from pipemax_worker.contract.energy import EnergyTotals
from pipemax_worker.dataset.chain_reader import read_last_records, segment_keys_by_range
from pipemax_worker.dataset.earlier_results import read_sources
from pipemax_worker.dataset.energy_ledger import read_energy
from pipemax_worker.dataset.heartbeats import HeartbeatLimits
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.dataset.offset_set import OffsetSet
from pipemax_worker.dataset.records import RecordCounts
from pipemax_worker.dataset.worker_states import (
    DEFAULT_LIMITS,
    WorkerState,
    read_worker_states,
)


class LedgerProgress(msgspec.Struct, frozen=True):
    """``counts`` is of the last record of every key in the store; the bytes are those of the input.

    failed_codes   error code -> records that carry it, the most frequent first.
    num_copied     of the records come from ``resumed_from``, earlier jobs' outputs.
    retry          the newest one, 0 if there was none; ranges are done or not for this one.
    workers        who works on it, or did and never said that it ended.
    energy         that all runs of it took of GPUs.
    """

    created_at: str
    num_ranges: int
    num_done_ranges: int
    counts: RecordCounts
    input_bytes: int
    done_bytes: int
    done_records: int
    failed_codes: dict[str, int]
    num_copied: int
    resumed_from: tuple[str, ...]
    retry: int
    workers: tuple[WorkerState, ...]
    energy: EnergyTotals = EnergyTotals()

    @property
    def is_finished(self) -> bool:
        return self.num_done_ranges == self.num_ranges

    @property
    def estimated_num_requests(self) -> int | None:
        """All requests of the job, extrapolated from the done ranges; None before the first."""
        if self.is_finished:
            return self.counts.num_records
        if not self.done_bytes:
            return None
        estimate = self.done_records * self.input_bytes // self.done_bytes
        return max(estimate, self.counts.num_records)


class _Tally:
    """Sums over records and ranges."""

    def __init__(self) -> None:
        self.counts = RecordCounts()
        self.failed_codes: Counter[str] = Counter()
        self.num_copied = 0

    def add_chain(self, store: ObjectStore, keys: list[str]) -> None:
        for head, _ in read_last_records(store, keys, OffsetSet()):
            self.counts += head.counts
            self.num_copied += head.pipemax.is_copied
            if (code := head.error_code) is not None:
                self.failed_codes[code] += 1


def read_progress(store: ObjectStore, limits: HeartbeatLimits = DEFAULT_LIMITS) -> LedgerProgress:
    """Count the done ranges from the ledger, the others from their chains. ``limits``: after which
    this job takes a worker for silent.

    Raises InputNotFoundError if no job was started in ``store``.
    """
    ledger = Ledger.load(store)
    tally, done, done_bytes = _Tally(), set[int](), 0
    for summary in ledger.summaries():
        done.add(summary.range_index)
        done_bytes += ledger.ranges[summary.range_index].size_bytes
        tally.counts += summary.counts
        tally.num_copied += summary.num_copied
        tally.failed_codes.update(summary.failed_codes)
    done_records = tally.counts.num_records
    for range_index, keys in segment_keys_by_range(store).items():
        if range_index not in done:
            tally.add_chain(store, keys)
    return LedgerProgress(
        created_at=ledger.job.created_at,
        num_ranges=len(ledger.ranges),
        num_done_ranges=len(done),
        counts=tally.counts,
        input_bytes=sum(file.size_bytes for file in ledger.job.inputs),
        done_bytes=done_bytes,
        done_records=done_records,
        failed_codes=dict(tally.failed_codes.most_common()),
        num_copied=tally.num_copied,
        resumed_from=read_sources(store),
        retry=ledger.retry,
        workers=read_worker_states(ledger, done, limits),
        energy=read_energy(store),
    )
