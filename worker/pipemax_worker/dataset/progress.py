"""How far a job came, from what lies in its output location alone: for ``pipemax status``.

Works while the job runs, after it was killed, and when it ended.
"""

from __future__ import annotations

import re
from itertools import groupby

import msgspec

from pipemax_worker.dataset.chain import RESULTS_PREFIX
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.dataset.records import RecordCounts, read_records

_SEGMENT_KEY = re.compile(re.escape(RESULTS_PREFIX) + r"\d{8}-\d{6}\.jsonl")


class LedgerProgress(msgspec.Struct, frozen=True):
    """``counts`` is of all records in the store; the bytes are those of the input."""

    created_at: str
    num_ranges: int
    num_done_ranges: int
    counts: RecordCounts
    input_bytes: int
    done_bytes: int
    done_records: int

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


def read_progress(store: ObjectStore) -> LedgerProgress:
    """Count the done ranges from the ledger, the others from their chains.

    Raises InputNotFoundError if no job was started in ``store``.
    """
    ledger = Ledger.load(store)
    counts, done_bytes = RecordCounts(), 0
    done = set()
    for summary in ledger.summaries():
        done.add(summary.range_index)
        counts += summary.counts
        done_bytes += ledger.ranges[summary.range_index].size_bytes
    done_records = counts.num_records
    for range_index, keys in segment_keys_by_range(store).items():
        if range_index not in done:
            for key in keys:
                for head, _ in read_records(key, store.get(key)):
                    counts += head.counts
    return LedgerProgress(
        created_at=ledger.job.created_at,
        num_ranges=len(ledger.ranges),
        num_done_ranges=len(done),
        counts=counts,
        input_bytes=sum(file.size_bytes for file in ledger.job.inputs),
        done_bytes=done_bytes,
        done_records=done_records,
    )


def segment_keys_by_range(store: ObjectStore) -> dict[int, list[str]]:
    """The segments of every range that has one, in the order of ranges and chains.

    Other files in the folder are passed over.
    """
    keys = filter(_SEGMENT_KEY.fullmatch, store.list(RESULTS_PREFIX))
    return {range_index: list(group) for range_index, group in groupby(keys, _range_index_of)}


def segment_keys_of_range(store: ObjectStore, range_index: int) -> list[str]:
    """The same for one range."""
    keys = store.list(f"{RESULTS_PREFIX}{range_index:08d}-")
    return [key for key in keys if _SEGMENT_KEY.fullmatch(key)]


def _range_index_of(key: str) -> int:
    return int(key.removeprefix(RESULTS_PREFIX).partition("-")[0])
