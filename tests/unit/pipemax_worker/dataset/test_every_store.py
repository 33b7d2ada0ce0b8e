"""What the chain and the ledger ask of a store, of each store that there is.

The store in memory is the model; the folder, the bucket, and the bucket whose server fails now and
then must not differ from it.
"""

from __future__ import annotations

import itertools
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kit.records import make_failed_record, make_record
from kit.s3_proxy import Fault, FaultyProxy
from kit.s3_server import S3Server, environment_for
from kit.store import ManualClock, MemoryStore
from pipemax_worker.dataset.backoff import RetryPolicy
from pipemax_worker.dataset.chain import segment_key
from pipemax_worker.dataset.fingerprint import build_fingerprint
from pipemax_worker.dataset.inputs import InputFile
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.dataset.local_store import LocalStore
from pipemax_worker.dataset.manifest import read_manifest, write_manifest
from pipemax_worker.dataset.object_store import ObjectNotFoundError, ObjectStore
from pipemax_worker.dataset.progress import read_progress
from pipemax_worker.dataset.records import Attempt
from pipemax_worker.dataset.results import iterate_results
from pipemax_worker.dataset.s3_store import open_s3
from pipemax_worker.dataset.segments import FlushLimits, SegmentWriter
from pipemax_worker.errors import LedgerMismatchError

StoreMaker = Callable[[], ObjectStore]

_FAST = RetryPolicy(max_seconds=60.0, first_delay_seconds=0.001, max_delay_seconds=0.01)
_FILES = (InputFile("a.jsonl", 250, "hash-a"), InputFile("b.jsonl", 50, "hash-b"))
_FAULTS = (None, None, None, Fault.LOSE_ANSWER, Fault.FAIL_AFTER, Fault.UNAVAILABLE, Fault.CUT)


class LockedMemoryStore(MemoryStore):
    """Its put_if_absent is one step for threads too."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with self._lock:
            return super().put_if_absent(key, data)


@pytest.fixture
def faulty_endpoint(s3_server: S3Server) -> Iterator[str]:
    """Of a proxy that fails four requests of seven, in a fixed order."""
    choose = random.Random(0)
    with FaultyProxy(s3_server.endpoint) as proxy:
        proxy.faults.extend(choose.choice(_FAULTS) for _ in range(20_000))
        yield proxy.endpoint


@pytest.fixture(params=["memory", "folder", "bucket", "faulty bucket"])
def open_again(request: pytest.FixtureRequest, tmp_path: Path) -> StoreMaker:
    """Opens one and the same place, as each worker does for itself."""
    if request.param == "memory":
        store = LockedMemoryStore()
        return lambda: store
    if request.param == "folder":
        return lambda: LocalStore(tmp_path / "out")
    server: S3Server = request.getfixturevalue("s3_server")
    uri, environment = f"{server.new_bucket()}/out", server.environment
    if request.param == "faulty bucket":
        environment = environment_for(request.getfixturevalue("faulty_endpoint"))
    return lambda: open_s3(uri, environment, _FAST)


@pytest.fixture
def store(open_again: StoreMaker) -> ObjectStore:
    return open_again()


def _open_ledger(store: ObjectStore, temperature: int = 0) -> Ledger:
    fingerprint = build_fingerprint(model={}, parameters={"temperature": temperature})
    return Ledger.open_or_create(store, _FILES, fingerprint, 100)


def _open_writer(
    store: ObjectStore, number: int, max_records: int = 1000, range_index: int = 0
) -> SegmentWriter:
    attempt, limits = Attempt(number, f"w{number}"), FlushLimits(max_records=max_records)
    return SegmentWriter.open(store, range_index, attempt, ManualClock(), limits)


def _offsets(store: ObjectStore) -> list[int]:
    return [json.loads(line)["pipemax"]["offset"] for line in iterate_results(store, ordered=False)]


def test_the_verbs(store: ObjectStore) -> None:
    store.probe()
    assert store.list("") == []
    assert store.put_if_absent("a/b/1", b"one")
    assert not store.put_if_absent("a/b/1", b"two")
    assert store.get("a/b/1") == b"one"
    store.put("a/b/1", b"")
    assert store.get("a/b/1") == b""
    store.put("a/b2", bytes(range(256)) * 10)
    assert store.get("a/b2") == bytes(range(256)) * 10
    store.put("c", b"3")
    assert store.list("a/b") == ["a/b/1", "a/b2"]
    assert store.list("a/b/") == ["a/b/1"]
    assert store.list("a/x") == store.list("nothing/here/") == []
    assert (store.exists("c"), store.exists("a"), store.exists("d")) == (True, False, False)
    store.delete("a/b/1")
    store.delete("a/b/1")
    with pytest.raises(ObjectNotFoundError):
        store.get("a/b/1")
    assert store.put_if_absent("a/b/1", b"again")
    assert store.list("") == ["a/b/1", "a/b2", "c"]


def test_who_finds_a_segment_taken_reads_it(open_again: StoreMaker) -> None:
    first, second = _open_writer(open_again(), 1), _open_writer(open_again(), 2)
    for offset in (0, 10, 20):
        first.append(make_record(offset))
    assert first.flush()
    for offset in (10, 20, 30):
        second.append(make_failed_record(offset))
    assert second.flush()
    store = open_again()
    assert sorted(_offsets(store)) == [0, 10, 20, 30]
    assert store.list("errors/") == ["errors/00000000-000001.jsonl"]
    first.append(make_record(30))
    first.append(make_record(40))
    assert not first.flush(), "the range belongs to a newer attempt"
    assert sorted(_offsets(store)) == [0, 10, 20, 30]


def test_workers_that_race_for_a_range_write_every_record_once(open_again: StoreMaker) -> None:
    """All serve all lines, each in an order of its own, and flush after every few."""
    num_lines, num_workers = 40, 6

    def work(number: int) -> None:
        writer = _open_writer(open_again(), number, max_records=3)
        offsets = list(range(num_lines))
        random.Random(number).shuffle(offsets)
        for offset in offsets:
            if not writer.append(make_record(offset)):
                return
        writer.flush()

    with ThreadPoolExecutor(num_workers) as workers:
        list(workers.map(work, range(1, num_workers + 1)))
    store = open_again()
    last = _open_writer(store, 100)
    for offset in range(num_lines):
        last.append(make_record(offset))
    assert last.flush()
    assert Counter(_offsets(store)) == Counter(range(num_lines))
    summary = last.summary(num_lines)
    keys = [segment_key(0, number) for number in range(len(summary.segments))]
    assert [segment.key for segment in summary.segments] == store.list("results/") == keys


def test_workers_that_start_together_agree_on_the_job(open_again: StoreMaker) -> None:
    barrier = threading.Barrier(6)

    def start(_: int) -> Ledger:
        store = open_again()
        barrier.wait()
        return _open_ledger(store)

    with ThreadPoolExecutor(6) as workers:
        ledgers = list(workers.map(start, range(6)))
    assert len({ledger.job.created_at for ledger in ledgers}) == 1
    assert len({len(ledger.ranges) for ledger in ledgers}) == 1
    with pytest.raises(LedgerMismatchError, match=r"parameters.temperature: was 0, is 1"):
        _open_ledger(open_again(), temperature=1)


def test_claims_go_to_one_worker_each(open_again: StoreMaker) -> None:
    """Also where the claim's answer is lost: no two workers get one and the same turn."""
    _open_ledger(open_again())
    with ThreadPoolExecutor(6) as workers:
        taken = list(workers.map(lambda n: _open_ledger(open_again()).claim(0, f"w{n}"), range(6)))
    numbers = sorted(attempt.number for attempt in taken)
    assert all(older < newer for older, newer in itertools.pairwise(numbers))


def test_a_job_from_its_ledger_to_its_manifest(open_again: StoreMaker) -> None:
    store = open_again()
    ledger = _open_ledger(store)
    for input_range in ledger.ranges:
        attempt = ledger.claim(input_range.index, "w")
        writer = SegmentWriter.open(store, input_range.index, attempt, ManualClock())
        for offset in range(3):
            record = make_record(offset) if offset else make_failed_record(offset)
            record["pipemax"]["file"] = f"{input_range.index}"
            writer.append(record)
        assert writer.flush()
        progress = read_progress(open_again())
        assert progress.num_done_ranges == input_range.index
        ledger.finish(writer.summary(3))
    assert _open_ledger(open_again()).is_finished
    manifest = write_manifest(store, ledger)
    assert write_manifest(open_again(), ledger) == manifest == read_manifest(open_again())
    assert (manifest.counts.completed, manifest.counts.failed) == (8, 4)
    assert len(_offsets(open_again())) == 12
