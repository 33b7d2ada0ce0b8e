"""One writer at a range's chain: when it writes, what it reads, what survives a failure."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from kit.records import make_failed_record, make_record
from kit.store import FailingStore, ManualClock, MemoryStore
from pipemax_worker.dataset.chain import segment_key
from pipemax_worker.dataset.local_store import LocalStore
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.dataset.records import Attempt, RecordCounts
from pipemax_worker.dataset.segments import FlushLimits, SegmentWriter
from pipemax_worker.errors import InvariantError, OutputError

FIRST, SECOND, THIRD = Attempt(1, "a"), Attempt(2, "b"), Attempt(3, "c")


def _open(
    store: ObjectStore,
    attempt: Attempt = FIRST,
    clock: ManualClock | None = None,
    limits: FlushLimits | None = None,
) -> SegmentWriter:
    return SegmentWriter.open(store, 0, attempt, clock or ManualClock(), limits)


def _offsets(store: ObjectStore, segment: int, range_index: int = 0) -> list[int]:
    lines = store.get(segment_key(range_index, segment)).splitlines()
    return [json.loads(line)["pipemax"]["offset"] for line in lines]


def test_keys_sort_in_the_order_of_ranges_and_chains() -> None:
    keys = [segment_key(*pair) for pair in [(0, 0), (0, 1), (0, 10), (2, 0), (10, 0), (100, 9)]]
    assert keys == sorted(keys)
    assert keys[3] == "results/00000002-000000.jsonl"


def test_records_lie_in_the_segment_by_offset() -> None:
    store = MemoryStore()
    writer = _open(store)
    for offset in (30, 10, 20):
        assert writer.append(make_record(offset))
    assert writer.num_buffered == 3
    assert store.writes == []
    assert writer.flush()
    assert writer.num_buffered == 0
    assert _offsets(store, 0) == [10, 20, 30]
    assert list(writer.recorded) == [10, 20, 30]


def test_an_empty_buffer_writes_nothing() -> None:
    store = MemoryStore()
    assert _open(store).flush()
    assert store.writes == []


def test_a_segment_is_written_at_its_number_of_records() -> None:
    store = MemoryStore()
    writer = _open(store, limits=FlushLimits(max_records=2))
    for offset in range(5):
        writer.append(make_record(offset))
    assert (_offsets(store, 0), _offsets(store, 1), writer.num_buffered) == ([0, 1], [2, 3], 1)


def test_a_segment_is_written_at_its_age_counted_from_its_first_record() -> None:
    store, clock = MemoryStore(), ManualClock()
    writer = _open(store, clock=clock)
    clock.seconds = 100.0
    writer.append(make_record(0))
    clock.seconds = 109.9
    writer.append(make_record(1))
    assert store.writes == []
    clock.seconds = 110.0
    assert writer.flush_if_due()
    assert _offsets(store, 0) == [0, 1]
    clock.seconds = 500.0
    writer.append(make_record(2))
    assert writer.num_buffered == 1


def test_a_segment_is_written_at_its_size() -> None:
    store = MemoryStore()
    writer = _open(store, limits=FlushLimits(max_bytes=1000))
    for offset in range(10):
        writer.append(make_record(offset))
    sizes = [len(data) for data in store.objects.values()]
    assert len(sizes) > 1
    assert all(1000 <= size < 1500 for size in sizes)


def test_a_key_that_has_a_record_is_ignored() -> None:
    store = MemoryStore()
    writer = _open(store)
    for _ in range(2):
        writer.append(make_record(0))
    writer.flush()
    writer.append(make_record(0))
    writer.flush()
    assert store.writes == [segment_key(0, 0)]
    assert writer.counts == RecordCounts(1, 0, 3, 2)


def test_a_record_without_its_key_is_a_bug() -> None:
    with pytest.raises(InvariantError, match="without its key"):
        _open(MemoryStore()).append({"id": "x"})


def test_a_later_attempt_goes_on_where_the_chain_ends() -> None:
    store = MemoryStore()
    first = _open(store)
    first.append(make_record(0))
    first.flush()
    first.append(make_failed_record(1))
    first.flush()
    second = _open(store, SECOND)
    assert list(second.recorded) == [0, 1]
    assert second.counts == RecordCounts(1, 1, 3, 2)
    second.append(make_record(2))
    second.flush()
    assert _offsets(store, 2) == [2]


def test_ranges_do_not_mix() -> None:
    store = MemoryStore()
    for range_index in (1, 11):
        writer = SegmentWriter.open(store, range_index, FIRST, ManualClock())
        assert len(writer.recorded) == 0
        writer.append(make_record(range_index))
        writer.flush()
        assert _offsets(store, 0, range_index) == [range_index]


def test_who_finds_a_segment_of_an_older_attempt_drops_and_goes_on() -> None:
    store = MemoryStore()
    newer, zombie = _open(store, SECOND), _open(store, FIRST)
    for offset in (0, 1):
        zombie.append(make_record(offset))
    for offset in (1, 2):
        newer.append(make_record(offset))
    assert zombie.flush()
    assert newer.flush()
    assert (_offsets(store, 0), _offsets(store, 1)) == ([0, 1], [2])
    assert list(newer.recorded) == [0, 1, 2]


def test_who_finds_a_segment_of_a_newer_attempt_leaves() -> None:
    store = MemoryStore()
    zombie, newer = _open(store, FIRST), _open(store, SECOND)
    newer.append(make_record(0))
    newer.flush()
    zombie.append(make_record(1))
    assert not zombie.flush()
    assert zombie.is_lost
    assert not zombie.append(make_record(2))
    assert not zombie.flush_if_due()
    assert zombie.num_buffered == 0
    assert store.writes == [segment_key(0, 0)]


def test_several_taken_segments_are_read_one_after_the_other() -> None:
    store = MemoryStore()
    late, early = _open(store, THIRD), _open(store, FIRST)
    for offset in range(4):
        early.append(make_record(offset))
        early.flush()
    for offset in range(6):
        late.append(make_record(offset))
    assert late.flush()
    assert _offsets(store, 4) == [4, 5]


def test_failed_records_are_copied_after_the_segment() -> None:
    store = MemoryStore()
    writer = _open(store)
    writer.append(make_record(0))
    writer.append(make_failed_record(1))
    writer.flush()
    writer.append(make_record(2))
    writer.flush()
    assert store.writes == [
        "results/00000000-000000.jsonl",
        "errors/00000000-000000.jsonl",
        "results/00000000-000001.jsonl",
    ]
    (copy,) = store.get("errors/00000000-000000.jsonl").splitlines()
    assert copy in store.get("results/00000000-000000.jsonl").splitlines()
    assert json.loads(copy)["custom_id"] == "custom-1"


def test_a_missing_copy_of_errors_is_made_by_who_reads_the_chain() -> None:
    store = MemoryStore()
    writer = _open(store)
    writer.append(make_failed_record(1))
    writer.flush()
    copy = store.objects.pop("errors/00000000-000000.jsonl")
    _open(store, SECOND)
    assert store.get("errors/00000000-000000.jsonl") == copy


def test_a_store_that_refuses_for_a_while_loses_nothing() -> None:
    store = FailingStore()
    writer = _open(store)
    writer.append(make_record(0))
    writer.append(make_failed_record(1))
    store.is_failing = True
    for _ in range(3):
        with pytest.raises(OutputError):
            writer.flush()
    store.is_failing = False
    assert writer.flush()
    assert writer.summary(num_lines=2).counts.num_records == 2
    assert store.exists("errors/00000000-000000.jsonl")


def test_a_write_that_landed_though_its_answer_was_lost_is_not_written_again() -> None:
    store = FailingStore()
    writer = _open(store)
    writer.append(make_record(0))
    writer.append(make_failed_record(1))
    store.is_failing = store.fails_after_write = True
    for _ in ("the segment", "the copy of errors"):
        with pytest.raises(OutputError, match="the answer was lost"):
            writer.flush()
    assert writer.flush()
    assert store.writes == ["results/00000000-000000.jsonl", "errors/00000000-000000.jsonl"]
    assert writer.summary(num_lines=2).counts.num_records == 2


def test_the_summary_needs_a_chain_that_covers_the_range() -> None:
    store = MemoryStore()
    writer = _open(store)
    writer.append(make_record(0))
    with pytest.raises(InvariantError, match="1 not written"):
        writer.summary(num_lines=1)
    writer.flush()
    with pytest.raises(InvariantError, match="2 lines, 1 records"):
        writer.summary(num_lines=2)
    summary = writer.summary(num_lines=1)
    (segment,) = summary.segments
    data = store.get(segment.key)
    assert segment.sha256 == hashlib.sha256(data).hexdigest()
    assert (segment.size_bytes, segment.num_records) == (len(data), 1)


def test_the_summary_is_the_same_for_who_reads_the_chain_later() -> None:
    store = MemoryStore()
    writer = _open(store, limits=FlushLimits(max_records=2))
    for offset in range(4):
        writer.append(make_record(offset))
    assert _open(store, SECOND).summary(4) == writer.summary(4)


def test_the_chain_lies_in_files(tmp_path: Path) -> None:
    writer = _open(LocalStore(tmp_path))
    writer.append(make_failed_record(5))
    writer.flush()
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert files == ["errors/00000000-000000.jsonl", "results/00000000-000000.jsonl"]
