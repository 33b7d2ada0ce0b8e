"""``ledger/workers/NAME.BEAT``: who works, and who has fallen silent.

A worker keeps one small object there whose name counts up while its loop turns; who is frozen,
killed or cut off from the store stops counting. The count stands in the key, so that one listing
shows all workers. *Silence is judged by the reader's clock alone*: a worker is silent if its count
has not changed for a time since this reader first saw it. No clock of another machine is trusted.
Who ends in order leaves ``NAME.ended``, and is silent at once. The object names the ranges that the
worker has in hand, so that others know what a silent one has left without going over all claims.

Being wrong about somebody costs work, never a record (``segments``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from pipemax_worker.contract.clock import Clock
from pipemax_worker.dataset.documents import encode_document
from pipemax_worker.dataset.object_store import ObjectNotFoundError, ObjectStore
from pipemax_worker.errors import OutputError

WORKERS_PREFIX = "ledger/workers/"
ENDED = "ended"
MIN_SILENT_SECONDS = 10.0


class HeartbeatLimits(msgspec.Struct, frozen=True):
    """``silent_seconds`` covers several missed beats: a loop may be held up by a slow store."""

    interval_seconds: float = 15.0
    silent_seconds: float = 60.0

    @classmethod
    def for_silence(cls, seconds: float) -> HeartbeatLimits:
        """Others take over after ``seconds``, or after as long as a slow store may hold a loop up;
        four beats fit into that."""
        silent_seconds = max(seconds, MIN_SILENT_SECONDS)
        return cls(min(cls().interval_seconds, silent_seconds / 4), silent_seconds)


class Beat(msgspec.Struct, frozen=True):
    """What a worker's object holds.

    at     when it was written, by that worker's clock (ISO 8601, UTC). For people: ``pipemax
           status`` shows it, nothing depends on it.
    held   ranges that the worker has in hand, with its attempt's number; some may be done by now.
    """

    at: str | None = None
    held: dict[int, int] = {}


class Heartbeat:
    """This worker's sign of life. Call :meth:`beat_if_due` wherever its loop turns."""

    def __init__(
        self, store: ObjectStore, worker: str, clock: Clock, limits: HeartbeatLimits
    ) -> None:
        self._store = store
        self._worker = worker
        self._clock = clock
        self._interval_seconds = limits.interval_seconds
        self._count = 0
        self._next_seconds = float("-inf")
        self._last_key: str | None = None
        self._held: dict[int, int] = {}

    def beat_if_due(self) -> None:
        """Show that the loop turns. A store that fails is no error here: what comes of it is that
        others take us for silent."""
        if self._clock.now() >= self._next_seconds:
            self._beat()

    def show(self, held: Mapping[int, int]) -> None:
        """Beat now, with these ranges in hand (index to attempt's number): one was claimed."""
        self._held = dict(held)
        self._beat()

    def end(self) -> None:
        """This worker takes no ranges any more; what it has left is others' at once."""
        self._replace(ENDED)

    def _beat(self) -> None:
        self._next_seconds = self._clock.now() + self._interval_seconds
        self._count += 1
        self._replace(f"{self._count:08d}")

    def _replace(self, suffix: str) -> None:
        key = f"{WORKERS_PREFIX}{self._worker}.{suffix}"
        with contextlib.suppress(OutputError):
            beat = Beat(datetime.now(UTC).isoformat(), self._held)
            self._store.put(key, encode_document(beat))
            if self._last_key is not None:
                self._store.delete(self._last_key)
            self._last_key = key


def read_beats(store: ObjectStore) -> dict[str, str]:
    """Worker name -> its count as text, or ``ended``, of all that ever worked. Raises OutputError.

    One that is seen between two beats may have two objects: the greater counts.
    """
    beats: dict[str, str] = {}
    for key in store.list(WORKERS_PREFIX):
        worker, _, beat = key.removeprefix(WORKERS_PREFIX).rpartition(".")
        beats[worker] = max(beat, beats.get(worker, ""))  # letters sort behind digits
    return beats


def read_held(store: ObjectStore, worker: str, beat: str) -> dict[int, int]:
    """The ranges that the worker had in hand at its last sign of life, as far as it can be read."""
    try:
        data = store.get(f"{WORKERS_PREFIX}{worker}.{beat}")
        return msgspec.json.decode(data, type=Beat).held
    except (ObjectNotFoundError, msgspec.DecodeError):
        return {}


def mark_ended(store: ObjectStore, worker: str, beat: str) -> None:
    """Say for a worker that is known to be dead what it could not say itself."""
    with contextlib.suppress(OutputError):
        store.put(f"{WORKERS_PREFIX}{worker}.{ENDED}", b"{}\n")
        store.delete(f"{WORKERS_PREFIX}{worker}.{beat}")


class _LastSeen(msgspec.Struct, frozen=True):
    beat: str
    since_seconds: float


class SilenceWatch:
    """What one reader has seen of all workers. Pure: beats come in by :meth:`update`.

    updated_seconds   when that was; who has shown himself only since then is not known.
    """

    def __init__(self, silent_seconds: float) -> None:
        self._silent_seconds = silent_seconds
        self._seen: dict[str, _LastSeen] = {}
        self._silent: set[str] = set()
        self.updated_seconds = float("-inf")

    def update(self, beats: Mapping[str, str], now_seconds: float) -> dict[str, str]:
        """Take in what :func:`read_beats` has read at ``now_seconds``; returns those who have
        fallen silent since the last time, with their last beats."""
        for worker, beat in beats.items():
            seen = self._seen.get(worker)
            if seen is None or seen.beat != beat:
                self._seen[worker] = _LastSeen(beat, now_seconds)
        for worker in self._seen.keys() - beats.keys():
            self._seen[worker] = _LastSeen(ENDED, now_seconds)
        before, self.updated_seconds = self._silent, now_seconds
        self._silent = {name for name in self._seen if self._is_silent(name, now_seconds)}
        return {name: self._seen[name].beat for name in sorted(self._silent - before)}

    def is_silent(self, worker: str) -> bool:
        """Whether ``worker`` was silent at the last update, or not there at all: a worker shows
        itself before its first claim."""
        return worker in self._silent or worker not in self._seen

    @property
    def num_alive(self) -> int:
        """Workers that were not silent at the last update."""
        return len(self._seen) - len(self._silent)

    def _is_silent(self, worker: str, now_seconds: float) -> bool:
        seen = self._seen[worker]
        return seen.beat == ENDED or now_seconds - seen.since_seconds >= self._silent_seconds
