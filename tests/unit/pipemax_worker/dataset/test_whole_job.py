"""From input files to manifest: progress, results and manifest of a job, ended, killed or running.

Requests are served by a function; everything else is real.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest
from kit.records import make_failed_record, make_record
from kit.store import ManualClock, MemoryStore
from pipemax_worker.dataset.fingerprint import build_fingerprint
from pipemax_worker.dataset.inputs import discover_inputs
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.dataset.local_store import LocalStore
from pipemax_worker.dataset.manifest import read_manifest, write_manifest
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.dataset.progress import read_progress
from pipemax_worker.dataset.reader import RangeReader
from pipemax_worker.dataset.records import RecordCounts
from pipemax_worker.dataset.results import iterate_results
from pipemax_worker.dataset.segments import FlushLimits, SegmentWriter
from pipemax_worker.errors import InputNotFoundError, InvariantError

LIMITS = FlushLimits(max_records=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files: 40 lines in several ranges, 10 in one compressed one; each says what it is."""
    for name, num_lines in (("a.jsonl", 40), ("b.jsonl.gz", 10)):
        content = b"".join(b'{"fails": %d}\n' % (n % 7 == 0) for n in range(num_lines))
        data = gzip.compress(content) if name.endswith(".gz") else content
        (tmp_path / name).write_bytes(data)
    return tmp_path


def _open(folder: Path, store: ObjectStore) -> Ledger:
    return Ledger.open_or_create(
        store, discover_inputs([folder]), build_fingerprint(model={}, parameters={"t": 1}), 100
    )


def _serve_range(
    ledger: Ledger, store: ObjectStore, range_index: int, stop_after: int | None = None
) -> None:
    """What the runner does with a range; with ``stop_after`` it is killed at that record."""
    attempt = ledger.claim(range_index, "worker")
    writer = SegmentWriter.open(store, range_index, attempt, ManualClock(), LIMITS)
    lines = list(RangeReader(ledger.ranges[range_index]))
    todo = [line for line in lines if line.key.offset not in writer.recorded]
    random.Random(range_index).shuffle(todo)
    for line in todo[:stop_after]:
        make = make_failed_record if b"1" in line.data else make_record
        record = make(line.key.offset)
        record["pipemax"]["file"] = line.key.file
        writer.append(record)
    if stop_after is None:
        writer.flush()
        ledger.finish(writer.summary(len(lines)))


def _keys(store: ObjectStore, ordered: bool = True) -> list[tuple[str, int]]:
    origins = [json.loads(line)["pipemax"] for line in iterate_results(store, ordered)]
    return [(origin["file"], origin["offset"]) for origin in origins]


def test_a_job_that_ended(folder: Path) -> None:
    store = MemoryStore()
    ledger = _open(folder, store)
    for range_index in reversed(range(len(ledger.ranges))):
        _serve_range(ledger, store, range_index)
    expected = RecordCounts(completed=42, failed=8, prompt_tokens=126, completion_tokens=84)
    progress = read_progress(store)
    assert (progress.is_finished, progress.counts) == (True, expected)
    assert progress.estimated_num_requests == 50
    manifest = write_manifest(store, ledger)
    assert manifest.counts == expected
    assert set(manifest.digests) == {"inputs", "model", "parameters"}
    assert [file.name for file in manifest.inputs] == ["a.jsonl", "b.jsonl.gz"]
    assert [segment.key for segment in manifest.segments] == store.list("results/")
    for segment in manifest.segments:
        assert segment.sha256 == hashlib.sha256(store.get(segment.key)).hexdigest()
    assert sum(segment.num_records for segment in manifest.segments) == 50
    keys = _keys(store)
    assert keys == sorted(keys)
    assert len(set(keys)) == 50
    assert _keys(store, ordered=False) != keys
    assert sorted(_keys(store, ordered=False)) == keys


def test_the_manifest_is_written_once_and_only_at_the_end(folder: Path) -> None:
    store = MemoryStore()
    ledger = _open(folder, store)
    assert read_manifest(store) is None
    _serve_range(ledger, store, 0)
    with pytest.raises(InvariantError, match=f"1 of {len(ledger.ranges)} ranges"):
        write_manifest(store, ledger)
    for range_index in range(1, len(ledger.ranges)):
        _serve_range(ledger, store, range_index)
    first = write_manifest(store, ledger)
    assert write_manifest(store, ledger) == first == read_manifest(store)
    assert store.writes.count("manifest.json") == 1


def test_progress_of_a_job_that_was_killed(folder: Path) -> None:
    store = MemoryStore()
    ledger = _open(folder, store)
    assert read_progress(store).estimated_num_requests is None
    _serve_range(ledger, store, 0)
    done = read_progress(store).counts.num_records
    _serve_range(ledger, store, 1, stop_after=5)
    store.put("results/notes.txt", b"not ours")
    progress = read_progress(store)
    assert (progress.num_ranges, progress.num_done_ranges) == (len(ledger.ranges), 1)
    assert progress.counts.num_records == done + 3
    assert progress.done_records == done
    assert progress.done_bytes == 100
    assert progress.input_bytes == sum(file.size_bytes for file in ledger.job.inputs)
    assert progress.estimated_num_requests == done * progress.input_bytes // 100
    assert len(_keys(store)) == done + 3


def test_a_killed_range_is_continued_not_repeated(folder: Path) -> None:
    store = MemoryStore()
    ledger = _open(folder, store)
    _serve_range(ledger, store, 0, stop_after=4)
    before = store.get("results/00000000-000000.jsonl")
    _serve_range(ledger, store, 0)
    assert store.get("results/00000000-000000.jsonl") == before
    assert len(_keys(store)) == len(set(_keys(store))) == len(list(RangeReader(ledger.ranges[0])))


def test_results_of_a_long_chain_in_order(folder: Path) -> None:
    """More segments than are held at a time, their records all mixed."""
    store = MemoryStore()
    writer = SegmentWriter.open(store, 0, _open(folder, store).claim(0, "w"), ManualClock(), LIMITS)
    offsets = list(range(100))
    random.Random(0).shuffle(offsets)
    for offset in offsets:
        writer.append(make_record(offset))
    writer.flush()
    assert [offset for _, offset in _keys(store)] == list(range(100))


def test_nothing_started_is_said_so(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "never")
    with pytest.raises(InputNotFoundError, match="no job was started here"):
        read_progress(store)
    assert list(iterate_results(store)) == []
    assert not (tmp_path / "never").exists()


_WORKER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from pipemax_worker.contract.clock import MonotonicClock
    from pipemax_worker.dataset.local_store import LocalStore
    from pipemax_worker.dataset.records import Attempt
    from pipemax_worker.dataset.segments import FlushLimits, SegmentWriter

    store, attempt = LocalStore(Path(sys.argv[1])), Attempt(int(sys.argv[2]), "w")
    writer = SegmentWriter.open(store, 0, attempt, MonotonicClock(), FlushLimits(max_records=2))
    for offset in range(100_000):
        writer.append({"pipemax": {"file": "a", "offset": offset}, "error": {"code": "x"}})
        print(offset, flush=True)
    """
)


def test_a_killed_process_leaves_whole_segments_with_every_record_once(tmp_path: Path) -> None:
    rng = random.Random(5)
    for attempt in range(1, 6):
        worker = subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(tmp_path), str(attempt)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert worker.stdout is not None
        for _ in range(rng.randint(1, 40)):
            worker.stdout.readline()
        os.kill(worker.pid, signal.SIGKILL)
        worker.communicate()
    store = LocalStore(tmp_path)
    counts = Counter(
        json.loads(line)["pipemax"]["offset"] for line in iterate_results(store, ordered=False)
    )
    assert set(counts.values()) == {1}
    assert set(counts) == set(range(len(counts)))
    assert len(store.list("results/")) * 2 == len(counts)
