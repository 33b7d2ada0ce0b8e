"""Who works, who is silent, who is gone: from the ledger at one look."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from kit.store import ManualClock, MemoryStore
from pipemax_worker.dataset.fingerprint import build_fingerprint
from pipemax_worker.dataset.heartbeats import Beat, Heartbeat, HeartbeatLimits
from pipemax_worker.dataset.inputs import InputFile
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.dataset.worker_states import WorkerPhase, read_worker_states
from pipemax_worker.dataset.workers import name_this_worker, parse_worker_name

FILES = (InputFile("a.jsonl", 50, "h"),)


@pytest.fixture
def ledger() -> Ledger:
    """Five ranges."""
    return Ledger.open_or_create(MemoryStore(), FILES, build_fingerprint(model=1), 10)


def heartbeat(ledger: Ledger, worker: str) -> Heartbeat:
    beat = Heartbeat(ledger.store, worker, ManualClock(), HeartbeatLimits())
    beat.beat_if_due()
    return beat


def test_nobody(ledger: Ledger) -> None:
    assert read_worker_states(ledger, set()) == ()


def test_a_worker_and_what_it_holds(ledger: Ledger) -> None:
    heartbeat(ledger, "b")
    heartbeat(ledger, "a")
    for range_index, worker in ((0, "a"), (1, "a"), (2, "b"), (2, "a"), (3, "b")):
        ledger.claim(range_index, worker)
    first, second = read_worker_states(ledger, done={0})
    assert (first.name, first.num_ranges, first.phase) == ("a", 2, WorkerPhase.WORKING)
    assert (second.name, second.num_ranges) == ("b", 1), "range 2 was taken over"
    assert first.silent_seconds is not None
    assert 0 <= first.silent_seconds < 60


def test_who_has_ended_is_not_shown(ledger: Ledger) -> None:
    heartbeat(ledger, "a").end()
    assert read_worker_states(ledger, set()) == ()


@pytest.mark.parametrize(
    ("age_seconds", "phase"),
    [(-100, WorkerPhase.WORKING), (59, WorkerPhase.WORKING), (61, WorkerPhase.SILENT)],
)
def test_an_old_sign_of_life(ledger: Ledger, age_seconds: int, phase: WorkerPhase) -> None:
    at = (datetime.now(UTC) - timedelta(seconds=age_seconds)).isoformat()
    ledger.store.put("ledger/workers/a.00000007", msgspec.json.encode(Beat(at)))
    (state,) = read_worker_states(ledger, set())
    assert state.phase is phase
    assert state.silent_seconds is not None
    assert state.silent_seconds >= max(0, age_seconds)


@pytest.mark.parametrize(
    ("limit_seconds", "phase"), [(300, WorkerPhase.WORKING), (15, WorkerPhase.SILENT)]
)
def test_a_jobs_own_limit_counts(ledger: Ledger, limit_seconds: int, phase: WorkerPhase) -> None:
    at = (datetime.now(UTC) - timedelta(seconds=40)).isoformat()
    ledger.store.put("ledger/workers/a.00000007", msgspec.json.encode(Beat(at)))
    (state,) = read_worker_states(ledger, set(), HeartbeatLimits.for_silence(limit_seconds))
    assert state.phase is phase


@pytest.mark.parametrize("content", [b"{}", b"", b'{"at": "yesterday"}'])
def test_a_sign_of_life_without_a_time(ledger: Ledger, content: bytes) -> None:
    ledger.store.put("ledger/workers/a.00000007", content)
    (state,) = read_worker_states(ledger, set())
    assert (state.phase, state.silent_seconds) == (WorkerPhase.SILENT, None)


def test_a_process_of_this_machine_that_is_no_more(ledger: Ledger) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    this = parse_worker_name(name_this_worker())
    assert this is not None
    heartbeat(ledger, str(msgspec.structs.replace(this, pid=ended.pid)))
    (state,) = read_worker_states(ledger, set())
    assert state.phase is WorkerPhase.GONE
