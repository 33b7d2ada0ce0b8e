"""One writer of a retry at a chain: what it counts, what it leaves, whom it makes leave."""

from __future__ import annotations

import json

import pytest
from kit.records import make_failed_record, make_record
from kit.store import ManualClock, MemoryStore
from pipemax_worker.dataset.chain import errors_key, segment_key
from pipemax_worker.dataset.records import Attempt, RecordCounts
from pipemax_worker.dataset.segments import SegmentWriter


def open_writer(store: MemoryStore, attempt: int, retry: int) -> SegmentWriter:
    return SegmentWriter.open(store, 0, Attempt(attempt, f"w{attempt}"), ManualClock(), retry=retry)


@pytest.fixture
def store() -> MemoryStore:
    """Lines 0 and 1 have failed, 2 has succeeded."""
    store = MemoryStore()
    writer = open_writer(store, 1, 0)
    for record in (make_failed_record(0), make_failed_record(1), make_record(2)):
        writer.append(record)
    writer.flush()
    return store


def test_what_failed_before_counts_as_missing(store: MemoryStore) -> None:
    writer = open_writer(store, 2, 1)
    assert list(writer.recorded) == [2]
    assert (writer.counts, writer.failed_codes) == (RecordCounts(1, 0, 3, 2), {})
    writer.append(make_failed_record(0))
    writer.append(make_record(1))
    writer.append(make_record(2))
    assert writer.num_buffered == 2, "what has succeeded is not taken"
    writer.flush()
    summary = writer.summary(3)
    assert summary.counts == RecordCounts(2, 1, 6, 4)
    assert summary.failed_codes == {"invalid_json": 1}
    assert [segment.retry for segment in summary.segments] == [0, 1]
    (line, _) = store.get(segment_key(0, 1)).splitlines()
    assert json.loads(line)["pipemax"]["retry"] == 1


def test_a_colleague_of_the_same_retry_does_not_try_it_again(store: MemoryStore) -> None:
    first = open_writer(store, 2, 1)
    first.append(make_failed_record(0))
    first.flush()
    second = open_writer(store, 3, 1)
    assert list(second.recorded) == [0, 2]
    assert not second.is_lost


def test_who_is_in_an_older_pass_leaves_whatever_his_attempt(store: MemoryStore) -> None:
    late = open_writer(store, 9, 0)
    retry = open_writer(store, 2, 1)
    retry.append(make_record(0))
    retry.flush()
    late.append(make_record(7))
    assert not late.flush()
    assert late.is_lost
    assert open_writer(store, 10, 0).is_lost, "also who comes only now"
    assert not open_writer(store, 3, 2).is_lost


def test_a_line_on_its_way_has_a_record(store: MemoryStore) -> None:
    writer = open_writer(store, 2, 1)
    assert not writer.has_record(0)
    writer.append(make_record(0))
    assert writer.has_record(0)
    assert 0 not in writer.recorded


def test_a_copy_of_errors_does_not_come_back(store: MemoryStore) -> None:
    """Its maker looked before compaction emptied it, and writes after."""
    key = errors_key(segment_key(0, 0))
    del store.objects[key]
    slow = SegmentWriter(store, 0, Attempt(5, "slow"), ManualClock())
    steps = slow.open_steps()
    for _ in range(3):
        next(steps)  # it has read the segment and found no copy
    store.put(key, b"")
    for _ in steps:
        pass
    assert store.get(key) == b""
