"""The trials of the data path, made small: they run, and they would notice what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import dataset_scale
import many_workers
import pytest
from kit.store import MemoryStore
from pipemax_worker.dataset.chain import segment_key
from pipemax_worker.dataset.local_store import LocalStore
from synthetic_worker import SyntheticWorker, TimedStore, expected_offsets, write_input


@pytest.fixture
def input_path(tmp_path: Path) -> Path:
    write_input(tmp_path / "input.jsonl", 2000, 200)
    return tmp_path / "input.jsonl"


def _lines(offsets: list[int]) -> bytes:
    records = (
        {"pipemax": {"file": "f", "offset": o, "attempt": 1, "worker": "w"}} for o in offsets
    )
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def test_the_synthetic_input_is_a_batch_file_of_the_size_asked_for(input_path: Path) -> None:
    lines = input_path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 2000
    assert all(195 < len(line) <= 200 for line in lines)
    assert json.loads(lines[7])["custom_id"] == "line-7"
    starts = list(expected_offsets(input_path))
    assert starts[:2] == [0, len(lines[0])]
    assert len(starts) == 2000


def test_a_synthetic_worker_does_the_whole_job(input_path: Path) -> None:
    steps: list[int] = []
    store = TimedStore(MemoryStore())
    worker = SyntheticWorker(store, input_path, "w", steps.append, lines_per_step=64)
    worker.run()
    assert sum(steps) == worker.num_computed == 2000
    assert max(steps) == 64
    assert worker.num_ranges == len(worker.ledger.ranges) == 7
    assert store.calls["ledger/claims"] >= 7
    assert store.calls.keys() == store.seconds.keys()
    assert many_workers.check_records(store, input_path) is None


@pytest.mark.parametrize(
    ("change", "violation"),
    [
        (lambda offsets: offsets[1:], "1 lines have no record"),
        (lambda offsets: [*offsets, offsets[5]], "1 lines have more than one record"),
        (lambda offsets: [*offsets, 3], "1 records belong to no line"),
    ],
)
def test_the_check_of_the_many_finds_what_is_wrong(
    input_path: Path, change: object, violation: str
) -> None:
    store = MemoryStore()
    offsets = list(expected_offsets(input_path))
    store.put(segment_key(0, 0), _lines(change(offsets)))  # type: ignore[operator]
    assert many_workers.check_records(store, input_path) == violation


@pytest.mark.parametrize("keep", [slice(1, None), slice(None)])
def test_the_check_of_the_millions_finds_what_is_wrong(
    tmp_path: Path, input_path: Path, keep: slice
) -> None:
    offsets = [*expected_offsets(input_path)][keep]
    store = LocalStore(tmp_path / "out")
    store.put(segment_key(0, 0), _lines(offsets))
    violation = dataset_scale.check_records(tmp_path / "out", input_path, 2000)
    assert (violation is None) == (len(offsets) == 2000)
    store.put(segment_key(0, 1), _lines(offsets[:3]))
    violation = dataset_scale.check_records(tmp_path / "out", input_path, 2000)
    assert violation is not None
    assert "3 of them doubled" in violation


def test_a_small_trial_of_the_millions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dataset_scale.run(20_000, tmp_path) == 0
    told = capsys.readouterr().out
    assert "then SIGKILL" in told
    assert "every line has exactly one" in told


def test_a_small_trial_of_the_many(root: Path) -> None:
    """Three processes, none disturbed: whether the figures are good is for the whole trial."""
    options = ["--workers", "3", "--seconds", "2", "--mebibytes", "1", "--disturbed", "0"]
    options += ["--server", "moto"]
    command = [sys.executable, str(root / "tools" / "many_workers.py"), *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "every line has exactly one" in ended.stdout, ended.stderr
    assert "3 worker processes, 0 killed, 0 frozen" in ended.stdout
    assert ended.stderr == ""
