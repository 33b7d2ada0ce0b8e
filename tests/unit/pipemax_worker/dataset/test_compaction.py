"""What a retry superseded goes, and nothing else; done again, it is the same."""

from __future__ import annotations

import json

import pytest
from kit.records import make_failed_record, make_record
from kit.store import FailingStore, ManualClock, MemoryStore
from pipemax_worker.dataset.chain import RangeSummary, errors_key, segment_key
from pipemax_worker.dataset.compaction import compact_chain
from pipemax_worker.dataset.records import Attempt
from pipemax_worker.dataset.segments import FlushLimits, SegmentWriter
from pipemax_worker.errors import OutputError


def write(store: MemoryStore, retry: int, failed: set[int], succeeded: set[int]) -> RangeSummary:
    """A pass that writes two records a segment, and covers lines 0 to 5."""
    writer = SegmentWriter.open(
        store, 0, Attempt(retry + 1, "w"), ManualClock(), FlushLimits(2), retry
    )
    for offset in sorted(failed | succeeded):
        writer.append(make_failed_record(offset) if offset in failed else make_record(offset))
    writer.flush()
    return writer.summary(6)


def offsets(store: MemoryStore, number: int) -> list[int]:
    lines = store.get(segment_key(0, number)).splitlines()
    return [json.loads(line)["pipemax"]["offset"] for line in lines]


@pytest.fixture
def store() -> MemoryStore:
    """After a first pass with failed records 0, 2, 3 and a retry of them; 3 has failed again."""
    store = FailingStore()
    write(store, 0, {0, 2, 3}, {1, 4, 5})
    return store


def test_superseded_records_go(store: MemoryStore) -> None:
    summary = compact_chain(store, write(store, 1, {3}, {0, 2}), 1)
    assert [offsets(store, number) for number in range(5)] == [[1], [], [4, 5], [0, 2], [3]]
    assert [store.get(errors_key(segment_key(0, number))) for number in (0, 1)] == [b"", b""]
    assert b'"offset":3' in store.get(errors_key(segment_key(0, 4)))
    assert [one.num_records for one in summary.segments] == [1, 0, 2, 2, 1]
    for segment in summary.segments:
        assert segment.size_bytes == len(store.get(segment.key))
    assert (summary.counts.completed, summary.counts.failed) == (5, 1)
    assert summary.failed_codes == {"invalid_json": 1}


def test_a_segment_without_failed_records_is_not_written(store: MemoryStore) -> None:
    summary = write(store, 1, {3}, {0, 2})
    store.writes.clear()
    compact_chain(store, summary, 1)
    keys = [segment_key(0, 0), segment_key(0, 1)]
    assert store.writes == [errors_key(keys[0]), keys[0], errors_key(keys[1]), keys[1]]


def test_the_first_pass_changes_nothing(store: MemoryStore) -> None:
    before = dict(store.objects)
    summary = SegmentWriter.open(store, 0, Attempt(9, "w"), ManualClock()).summary(6)
    assert compact_chain(store, summary, 0) == summary
    assert store.objects == before


def test_done_again_it_is_the_same(store: MemoryStore) -> None:
    stale = write(store, 1, {3}, {0, 2})
    first = compact_chain(store, stale, 1)
    before = dict(store.objects)
    assert compact_chain(store, stale, 1) == first, "by one who was frozen before he began"
    assert store.objects == before
    reader = SegmentWriter.open(store, 0, Attempt(9, "w"), ManualClock(), retry=1)
    assert compact_chain(store, reader.summary(6), 1) == first, "by one who came later"


def test_after_the_next_retry_an_old_one_still_changes_nothing(store: MemoryStore) -> None:
    stale = write(store, 1, {3}, {0, 2})
    compact_chain(store, stale, 1)
    compact_chain(store, write(store, 2, set(), {3}), 2)
    before = dict(store.objects)
    compact_chain(store, stale, 1)
    assert store.objects == before
    assert [offsets(store, number) for number in range(6)] == [[1], [], [4, 5], [0, 2], [], [3]]


def test_a_store_that_fails_in_the_middle(store: MemoryStore) -> None:
    assert isinstance(store, FailingStore)
    summary = write(store, 1, {3}, {0, 2})
    store.is_failing = True
    with pytest.raises(OutputError):
        compact_chain(store, summary, 1)
    store.is_failing = False
    assert compact_chain(store, summary, 1).segments[0].num_records == 1
