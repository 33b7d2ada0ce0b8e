"""Records of an earlier job are found by file and offset, whatever its ranges were."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit.records import make_failed_record, make_record
from kit.store import ManualClock, MemoryStore
from pipemax_worker.dataset.earlier_results import EarlierResults, note_source, read_sources
from pipemax_worker.dataset.fingerprint import build_fingerprint
from pipemax_worker.dataset.inputs import InputFile, discover_inputs
from pipemax_worker.dataset.ledger import Ledger, build_ledger_job
from pipemax_worker.dataset.ranges import InputRange, plan_ranges
from pipemax_worker.dataset.records import Attempt, encode_record, read_copy, read_records
from pipemax_worker.dataset.segments import FlushLimits, SegmentWriter
from pipemax_worker.errors import InputNotFoundError, LedgerMismatchError

FINGERPRINT = build_fingerprint(model={"config": "c"}, parameters={"temperature": 0.0})
NUM_LINES = 30
LINE_BYTES = 10


@pytest.fixture
def files(tmp_path: Path) -> tuple[InputFile, ...]:
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        (tmp_path / name).write_bytes(b'{"id": 1}\n' * NUM_LINES)
    return discover_inputs([tmp_path])


def earlier_job(files: tuple[InputFile, ...], range_bytes: int) -> MemoryStore:
    """Every third line failed; two records in a segment."""
    store = MemoryStore()
    ledger = Ledger.open_or_create(store, files, FINGERPRINT, range_bytes)
    for found in ledger.ranges:
        writer = SegmentWriter.open(
            store, found.index, ledger.claim(found.index, "w"), ManualClock(), FlushLimits(2)
        )
        assert found.end is not None
        for offset in range(found.start, found.end, LINE_BYTES):
            if offset % LINE_BYTES == 0:
                fails = offset % (3 * LINE_BYTES) == 0
                record = make_failed_record(offset) if fails else make_record(offset)
                record["pipemax"]["file"] = found.file.name
                writer.append(record)
        writer.flush()
    return store


def expected(wanted: InputRange) -> set[tuple[str, int]]:
    assert wanted.end is not None
    return {
        (wanted.file.name, offset)
        for offset in range(0, NUM_LINES * LINE_BYTES, LINE_BYTES)
        if wanted.start <= offset < wanted.end and offset % (3 * LINE_BYTES)
    }


@pytest.mark.parametrize("earlier_bytes", [20, 70, 110, 300, 1000])
@pytest.mark.parametrize("range_bytes", [20, 90, 1000])
def test_each_range_gets_its_own(
    files: tuple[InputFile, ...], earlier_bytes: int, range_bytes: int
) -> None:
    store = earlier_job(files, earlier_bytes)
    job = build_ledger_job(files, FINGERPRINT, range_bytes)
    earlier = EarlierResults.open(store, job)
    for wanted in plan_ranges(files, range_bytes):
        copies = [one for portion in earlier.read_copies(wanted) for one in portion]
        found = [(one["pipemax"]["file"], one["pipemax"]["offset"]) for one in copies]
        assert len(found) == len(set(found))
        assert set(found) == expected(wanted)


def test_a_portion_is_one_segment(files: tuple[InputFile, ...]) -> None:
    earlier = EarlierResults(
        store := earlier_job(files, 1000), Ledger.open_or_create(store, files, FINGERPRINT, 1000)
    )
    (wanted, *_) = plan_ranges(files, 1000)
    assert max(map(len, earlier.read_copies(wanted))) <= 2


def test_a_compressed_file_is_one_range(tmp_path: Path) -> None:
    file = InputFile("z.jsonl.gz", 50, "h")
    store = MemoryStore()
    ledger = Ledger.open_or_create(store, (file,), FINGERPRINT, 10)
    writer = SegmentWriter.open(store, 0, ledger.claim(0, "w"), ManualClock())
    record = make_record(10**9)
    record["pipemax"]["file"] = "z.jsonl.gz"
    writer.append(record)
    writer.flush()
    (portion,) = EarlierResults(store, ledger).read_copies(ledger.ranges[0])
    assert portion[0]["pipemax"]["offset"] == 10**9


def test_a_copy_is_marked_and_forgets_who_wrote_the_original() -> None:
    line = encode_record(make_record(5), Attempt(7, "old"), retry=2)
    copy = read_copy(line)
    assert copy["pipemax"] == {"file": "a.jsonl", "offset": 5, "line": None, "copied": True}
    ((head, _),) = read_records("k", encode_record(copy, Attempt(1, "new")))
    assert head.pipemax.is_copied
    assert (head.pipemax.retry, head.attempt) == (0, Attempt(1, "new"))
    assert copy["response"] == make_record(5)["response"]


@pytest.mark.parametrize(
    ("model", "temperature", "size", "named"),
    [
        ("d", 0.0, 9, r'model\.config: was "c", is "d"'),
        ("c", 0.5, 9, r"parameters\.temperature: was 0\.0, is 0\.5"),
        ("c", 0.0, 8, r"input a\.jsonl\.size_bytes: was 9, is 8"),
    ],
)
def test_another_job_is_refused_by_what_changed(
    model: str, temperature: float, size: int, named: str
) -> None:
    store = MemoryStore()
    Ledger.open_or_create(store, [InputFile("a.jsonl", 9, "h")], FINGERPRINT, 10)
    fingerprint = build_fingerprint(
        model={"config": model}, parameters={"temperature": temperature}
    )
    job = build_ledger_job([InputFile("a.jsonl", size, "h")], fingerprint, 10)
    with pytest.raises(LedgerMismatchError, match=f"spec.resumeFrom .*{named}"):
        EarlierResults.open(store, job)


def test_a_place_where_no_job_was() -> None:
    with pytest.raises(InputNotFoundError, match="no job was started here"):
        EarlierResults.open(MemoryStore(), build_ledger_job([], FINGERPRINT, 10))


def test_sources_are_written_down_once() -> None:
    store = MemoryStore()
    for _ in range(2):
        note_source(store, "s3://bucket/first")
    note_source(store, "/second")
    assert set(read_sources(store)) == {"s3://bucket/first", "/second"}
    assert len(store.writes) == 2
