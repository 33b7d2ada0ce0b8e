"""One range on its way."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kit.records import make_record
from kit.store import ManualClock, MemoryStore
from pipemax_worker.dataset.inputs import discover_inputs
from pipemax_worker.dataset.ranges import plan_ranges
from pipemax_worker.dataset.records import Attempt
from pipemax_worker.dataset.segments import SegmentWriter
from pipemax_worker.runner.range_work import RangeWork


def open_work(path: Path, store: MemoryStore) -> RangeWork:
    (input_range,) = plan_ranges(discover_inputs([path]), 1 << 20)
    writer = SegmentWriter.open(store, 0, Attempt(1, "w"), ManualClock())
    return RangeWork(input_range, writer)


def test_lines_are_counted_and_the_end_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{}\n{}\n")
    work = open_work(path, MemoryStore())
    assert not work.is_complete
    assert work.next_line() is not None
    assert work.next_line() is not None
    assert (work.num_lines, work.is_read) == (2, False)
    assert work.next_line() is None
    assert (work.num_lines, work.is_complete) == (2, True)


def test_bytes_of_lines_with_a_record(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": 22}\n{}')
    store = MemoryStore()
    first = open_work(path, store)
    line = first.next_line()
    assert line is not None
    first.record(line, make_record(line.key.offset))
    assert first.bytes_done == 9
    first.writer.flush()

    second = open_work(path, store)
    lines = [second.next_line(), second.next_line(), second.next_line()]
    assert [second.has_record(line) for line in lines if line] == [True, False, False]
    for line in lines:
        assert line is not None
        second.skip(line)
    assert second.bytes_done == path.stat().st_size, "the last line has no end"


def test_progress_inside_a_compressed_file_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b"{}\n" * 1000))
    work = open_work(path, MemoryStore())
    for _ in range(1000):
        line = work.next_line()
        assert line is not None
        work.skip(line)
    assert work.bytes_done == 0


def copies_of(*portions: list[int]) -> Iterator[list[dict[str, Any]]]:
    return iter([[make_record(offset) for offset in portion] for portion in portions])


def test_copies_come_into_the_chain_portion_by_portion(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{}\n" * 4)
    store = MemoryStore()
    first = open_work(path, store)
    first.writer.append(make_record(3))
    first.writer.flush()
    work = open_work(path, store)
    work = RangeWork(work.input_range, work.writer, copies_of([0, 3], [], [6]))
    counts = []
    while work.is_copying:
        counts.append(work.copy_portion())
    assert counts == [1, 0, 1, 0], "a line that has a record is passed over"
    assert work.writer.num_buffered == 2
    lines = list(iter(work.next_line, None))
    assert [work.has_record(line) for line in lines] == [True, True, True, False]


def test_without_an_earlier_job_nothing_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{}\n")
    work = open_work(path, MemoryStore())
    assert not work.is_copying
    assert work.copy_portion() == 0


def test_what_was_read_tells_how_long_the_rest_is(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": 2}\n{}')
    work = open_work(path, MemoryStore())
    line = work.next_line()
    assert line is not None
    work.record(line, make_record(line.key.offset))
    work.next_line()
    totals = work.totals
    assert (totals.num_done, totals.bytes_done) == (1, 9)
    assert (totals.num_read, totals.bytes_read) == (2, 18)
    assert totals.estimate_num_requests(path.stat().st_size) == 3
    while work.next_line() is not None:
        pass
    assert (work.totals.num_read, work.totals.bytes_read) == (3, path.stat().st_size)


def test_a_compressed_files_lines_are_known_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b"{}\n" * 3))
    work = open_work(path, MemoryStore())
    work.next_line()
    assert (work.totals.num_read, work.totals.bytes_read) == (0, 0)
    while work.next_line() is not None:
        pass
    assert (work.totals.num_read, work.totals.bytes_read) == (3, path.stat().st_size)
