"""The ledger says what the job is, refuses another one, and knows what is done."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from kit.store import MemoryStore
from pipemax_worker.dataset.chain import RangeSummary, segment_key
from pipemax_worker.dataset.fingerprint import Fingerprint, build_fingerprint
from pipemax_worker.dataset.inputs import InputFile
from pipemax_worker.dataset.ledger import JOB_KEY, Ledger
from pipemax_worker.dataset.local_store import LocalStore
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.dataset.records import RecordCounts
from pipemax_worker.errors import InputNotFoundError, LedgerMismatchError, OutputError

FILES = (InputFile("a.jsonl", 250, "hash-a", "/in/a.jsonl"), InputFile("b.jsonl", 50, "hash-b"))


def _fingerprint(temperature: float = 0.0) -> Fingerprint:
    return build_fingerprint(model={"config": "c"}, parameters={"temperature": temperature})


def _open(
    store: ObjectStore, files: tuple[InputFile, ...] = FILES, range_bytes: int = 100
) -> Ledger:
    return Ledger.open_or_create(store, files, _fingerprint(), range_bytes)


def _summary(range_index: int, completed: int = 1) -> RangeSummary:
    return RangeSummary(range_index, RecordCounts(completed), ())


def test_the_first_worker_fixes_the_job() -> None:
    store = MemoryStore()
    first = _open(store)
    second = _open(store, range_bytes=10)
    assert second.job == first.job
    assert len(second.ranges) == 4
    assert second.ranges[0].file.path == "/in/a.jsonl"
    written = json.loads(store.get(JOB_KEY))
    assert written["range_bytes"] == 100
    assert [file["name"] for file in written["inputs"]] == ["a.jsonl", "b.jsonl"]
    assert "path" not in written["inputs"][0]
    assert written["fingerprint"]["parameters"] == {"temperature": 0.0}


def test_the_order_of_files_does_not_matter() -> None:
    store = MemoryStore()
    assert [r.file.name for r in _open(store).ranges] == [
        r.file.name for r in _open(store, FILES[::-1]).ranges
    ]


def test_workers_that_start_together_agree(tmp_path: Path) -> None:
    jobs = []
    barrier = threading.Barrier(6)

    def start(range_bytes: int) -> None:
        barrier.wait()
        jobs.append(_open(LocalStore(tmp_path), range_bytes=range_bytes).job)

    threads = [threading.Thread(target=start, args=(100 + number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(jobs) == 6
    assert len({job.range_bytes for job in jobs}) == 1


def test_a_changed_parameter_is_refused_by_name() -> None:
    store = MemoryStore()
    _open(store)
    with pytest.raises(LedgerMismatchError, match=r"parameters.temperature: was 0.0, is 0.7"):
        Ledger.open_or_create(store, FILES, _fingerprint(0.7), 100)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((FILES[0],), r"input b\.jsonl: was .*, is not set"),
        ((*FILES, InputFile("c.jsonl", 1, "h")), r"input c\.jsonl: was not set, is"),
        ((FILES[0], InputFile("b.jsonl", 51, "h")), r"b\.jsonl.size_bytes: was 50, is 51"),
        ((FILES[0], InputFile("b.jsonl", 50, "h")), r'b\.jsonl.content_hash: was "hash-b", is "h"'),
    ],
)
def test_a_changed_input_is_refused_by_name(files: tuple[InputFile, ...], message: str) -> None:
    store = MemoryStore()
    _open(store)
    with pytest.raises(LedgerMismatchError, match=message):
        _open(store, files)


def test_a_moved_or_touched_input_is_the_same() -> None:
    store = MemoryStore()
    _open(store)
    _open(store, (InputFile("a.jsonl", 250, "hash-a", "/elsewhere/a.jsonl", 99), FILES[1]))


def test_a_ledger_of_another_version_is_refused() -> None:
    store = MemoryStore()
    _open(store)
    job = {**json.loads(store.get(JOB_KEY)), "version": 99}
    store.put(JOB_KEY, json.dumps(job).encode())
    for open_ledger in (_open, Ledger.load):
        with pytest.raises(LedgerMismatchError, match="version 99, this program reads version 2"):
            open_ledger(store)


def test_a_ledger_of_before_ranges_shrank_is_refused_not_misread() -> None:
    store = MemoryStore()
    _open(store)
    job = {**json.loads(store.get(JOB_KEY)), "version": 1}
    del job["smallest_range_bytes"], job["ranges_per_size"]
    store.put(JOB_KEY, json.dumps(job).encode())
    with pytest.raises(LedgerMismatchError, match=r"version 1, .* or a new output location"):
        _open(store)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"version": 2}'])
def test_a_damaged_ledger_is_named(damage: bytes) -> None:
    store = MemoryStore()
    store.put(JOB_KEY, damage)
    with pytest.raises(OutputError, match=r"ledger/job\.json cannot be read"):
        _open(store)


def test_results_without_a_ledger_are_nobodys() -> None:
    store = MemoryStore()
    store.put(segment_key(0, 0), b"")
    with pytest.raises(LedgerMismatchError, match=r"holds records but ledger/job\.json is missing"):
        _open(store)
    assert not store.exists(JOB_KEY)


def test_load_needs_no_input_and_no_fingerprint() -> None:
    store = MemoryStore()
    created = _open(store)
    loaded = Ledger.load(store)
    assert loaded.job == created.job
    assert len(loaded.ranges) == 4
    with pytest.raises(InputNotFoundError, match="no job was started here"):
        Ledger.load(MemoryStore())


def test_all_workers_cut_the_same_shrinking_ranges() -> None:
    store = MemoryStore()
    files = (InputFile("a.jsonl", 10_000, "hash"),)
    first = Ledger.open_or_create(store, files, _fingerprint(), 40, 10)
    other = Ledger.open_or_create(store, files, _fingerprint(), 80, 80)
    assert [r.start for r in other.ranges] == [r.start for r in first.ranges]
    assert [r.start for r in Ledger.load(store).ranges] == [r.start for r in first.ranges]
    assert {r.size_bytes for r in first.ranges} == {40, 20, 10}


def test_the_job_is_finished_when_all_ranges_are_done() -> None:
    store = MemoryStore()
    ledger = _open(store)
    ledger.claim(3, "a")
    for range_index in (3, 0, 2):
        ledger.finish(_summary(range_index))
    assert ledger.done_ranges() == {0, 2, 3}
    assert not ledger.is_finished
    assert ledger.claims.newest_number(3) == 1, "claims stay: numbers are never given again"
    assert ledger.finished_here == [3, 0, 2]
    ledger.finish(_summary(1))
    assert ledger.is_finished
    assert [summary.range_index for summary in ledger.summaries()] == [0, 1, 2, 3]


def test_done_ranges_of_a_block() -> None:
    ledger = Ledger.open_or_create(
        MemoryStore(), (InputFile("a.jsonl", 250_000, "hash"),), _fingerprint(), 100
    )
    for range_index in (0, 999, 1000, 2400):
        ledger.finish(_summary(range_index))
    assert ledger.done_ranges(0) == {0, 999}
    assert ledger.done_ranges(1) == {1000}
    assert ledger.done_ranges(2) == {2400}
    assert ledger.done_ranges() == {0, 999, 1000, 2400}


def test_who_finishes_first_is_believed() -> None:
    ledger = _open(MemoryStore())
    ledger.finish(_summary(0, completed=5))
    ledger.finish(_summary(0, completed=6))
    assert [summary.counts.completed for summary in ledger.summaries()] == [5]
