"""Who works on a job, at one look: for ``pipemax status``.

Signs of life carry the time of the worker's own clock, which may be off; workers themselves never
go by it (``heartbeats``).
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator, Set
from datetime import UTC, datetime

import msgspec

from pipemax_worker.dataset.claim_log import RANGES_PER_BLOCK
from pipemax_worker.dataset.heartbeats import (
    ENDED,
    WORKERS_PREFIX,
    Beat,
    HeartbeatLimits,
    read_beats,
)
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.dataset.object_store import ObjectNotFoundError, ObjectStore
from pipemax_worker.dataset.workers import is_known_dead, name_this_worker

DEFAULT_LIMITS = HeartbeatLimits()

_MAX_CLAIMS_READ = 200


class WorkerPhase(enum.StrEnum):
    """WORKING: its last sign of life is not old. SILENT: it is old, or of unknown age. GONE: its
    process lived on this machine and is no more."""

    WORKING = "working"
    SILENT = "silent"
    GONE = "gone"


class WorkerState(msgspec.Struct, frozen=True):
    """A worker that has not said that it ended. ``silent_seconds``: since its last sign of life,
    by its clock and ours; None if that is not known. ``num_ranges`` are claimed by it and not done.
    """

    name: str
    phase: WorkerPhase
    silent_seconds: float | None
    num_ranges: int


def read_worker_states(
    ledger: Ledger, done: Set[int], limits: HeartbeatLimits = DEFAULT_LIMITS
) -> tuple[WorkerState, ...]:
    """Of all workers that have not ended, by name. ``done``: ranges that are done. ``limits``: the
    job's own."""
    names = {name: beat for name, beat in read_beats(ledger.store).items() if beat != ENDED}
    if not names:
        return ()
    held = Counter(_claimants(ledger, done))
    this = name_this_worker()
    return tuple(
        _state_of(ledger.store, name, beat, held[name], this, limits.silent_seconds)
        for name, beat in sorted(names.items())
    )


def _state_of(
    store: ObjectStore, name: str, beat: str, num_ranges: int, this: str, max_silent_seconds: float
) -> WorkerState:
    seconds = _seconds_since(store, f"{WORKERS_PREFIX}{name}.{beat}")
    if is_known_dead(name, this):
        phase = WorkerPhase.GONE
    elif seconds is None or seconds > max_silent_seconds:
        phase = WorkerPhase.SILENT
    else:
        phase = WorkerPhase.WORKING
    return WorkerState(name, phase, seconds, num_ranges)


def _seconds_since(store: ObjectStore, key: str) -> float | None:
    """Since the beat was written; None if it does not say, or was replaced this moment."""
    try:
        at = msgspec.json.decode(store.get(key), type=Beat).at
        written = datetime.fromisoformat(at) if at else None
    except (ObjectNotFoundError, msgspec.DecodeError, ValueError):
        return None
    return max(0.0, (datetime.now(UTC) - written).total_seconds()) if written else None


def _claimants(ledger: Ledger, done: Set[int]) -> Iterator[str]:
    """Who holds the newest claim of each range that is not done; of the first ones, if many."""
    num_read = 0
    for block in range(-(-len(ledger.ranges) // RANGES_PER_BLOCK)):
        for range_index, number in ledger.claims.newest_numbers(block).items():
            if range_index in done:
                continue
            if num_read == _MAX_CLAIMS_READ:
                return
            num_read += 1
            if (claim := ledger.claims.read(range_index, number)) is not None:
                yield claim.attempt.worker
