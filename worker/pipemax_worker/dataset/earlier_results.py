"""The output of an earlier job whose records count for a new one: ``spec.resumeFrom``.

Records are found by file and offset, so the earlier job's ranges may have been cut otherwise. Only
what succeeded is taken over; it is copied, so the new output stands for itself afterwards.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from pipemax_worker.dataset.chain import segment_key
from pipemax_worker.dataset.documents import decode_document, encode_document
from pipemax_worker.dataset.fingerprint import describe_changes
from pipemax_worker.dataset.ledger import Ledger, LedgerJob, diff_jobs
from pipemax_worker.dataset.object_store import ObjectNotFoundError, ObjectStore
from pipemax_worker.dataset.ranges import InputRange
from pipemax_worker.dataset.records import read_copy, read_records
from pipemax_worker.errors import LedgerMismatchError

_SOURCES_PREFIX = "ledger/resumed-from/"


class Source(msgspec.Struct, frozen=True):
    """``ledger/resumed-from/HASH.json``: a place whose records this output has taken over, and
    since when."""

    place: str
    created_at: str


class EarlierResults:
    """What lies at one place, for a job with the same model, parameters and input."""

    def __init__(self, store: ObjectStore, ledger: Ledger) -> None:
        self._store = store
        self._ranges = ledger.ranges

    @classmethod
    def open(cls, store: ObjectStore, job: LedgerJob) -> EarlierResults:
        """Raises InputNotFoundError if no job was ever started there, LedgerMismatchError if it was
        another one than ``job``, saying in what."""
        ledger = Ledger.load(store)
        if changes := diff_jobs(ledger.job, job):
            raise LedgerMismatchError(
                f"{store.place}: spec.resumeFrom names the output of another job; "
                f"changed since {ledger.job.created_at}: {describe_changes(changes)}; "
                "undo the change, or leave resumeFrom out to compute everything anew"
            )
        return cls(store, ledger)

    def read_copies(self, input_range: InputRange) -> Iterator[list[dict[str, Any]]]:
        """Records that succeeded, of lines that begin in ``input_range``, marked as copied: one
        segment's at a time, perhaps none of it. Raises OutputError."""
        for index in self._overlapping_indices(input_range):
            for key, data in _segments(self._store, index):
                yield [
                    read_copy(line)
                    for head, line in read_records(key, data)
                    if not head.is_failed and _begins_in(head.pipemax.offset, input_range)
                ]

    def _overlapping_indices(self, wanted: InputRange) -> Iterator[int]:
        """Of the earlier job's ranges, which are in the order of files and offsets."""
        name = wanted.file.name
        first = bisect_right(
            self._ranges, (name, wanted.start), key=lambda one: (one.file.name, one.start)
        )
        for index in range(max(0, first - 1), len(self._ranges)):
            found = self._ranges[index]
            if found.file.name > name or (
                found.file.name == name and not _begins_in(max(found.start, wanted.start), wanted)
            ):
                return
            if found.file.name == name:
                yield index


def note_source(store: ObjectStore, place: str) -> None:
    """Write down, once, that the output in ``store`` takes over records of ``place``."""
    key = f"{_SOURCES_PREFIX}{hashlib.sha256(place.encode()).hexdigest()[:16]}.json"
    created_at = datetime.now(UTC).isoformat(timespec="seconds")
    if not store.exists(key):
        store.put_if_absent(key, encode_document(Source(place, created_at)))


def read_sources(store: ObjectStore) -> tuple[str, ...]:
    """The places that were written down, the first one first."""
    sources = [decode_document(store, key, Source) for key in store.list(_SOURCES_PREFIX)]
    return tuple(source.place for source in sorted(sources, key=lambda one: one.created_at))


def _begins_in(offset: int, input_range: InputRange) -> bool:
    return input_range.start <= offset and (input_range.end is None or offset < input_range.end)


def _segments(store: ObjectStore, range_index: int) -> Iterator[tuple[str, bytes]]:
    """The range's chain, as far as it goes."""
    number = 0
    while True:
        key = segment_key(range_index, number)
        try:
            data = store.get(key)
        except ObjectNotFoundError:
            return
        yield key, data
        number += 1
