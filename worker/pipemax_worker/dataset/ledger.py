"""What the job is and which ranges are done: ``ledger/`` in the output location.

ledger/job.json      written once by the first worker: inputs, range size, fingerprint
ledger/claims/RANGE  who works on a range: advisory, saves work, never decides a record
ledger/done/RANGE    written once when the range's chain covers every line: counts, segments
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from pipemax_worker.dataset.fingerprint import (
    Change,
    Fingerprint,
    describe_changes,
    diff_values,
    digest_json,
)
from pipemax_worker.dataset.inputs import InputFile
from pipemax_worker.dataset.object_store import ObjectNotFoundError, ObjectStore
from pipemax_worker.dataset.ranges import RangePlan, plan_ranges
from pipemax_worker.dataset.records import Attempt
from pipemax_worker.dataset.segments import RESULTS_PREFIX, RangeSummary
from pipemax_worker.errors import InputNotFoundError, LedgerMismatchError, OutputError

LEDGER_VERSION = 1
JOB_KEY = "ledger/job.json"
_CLAIMS_PREFIX = "ledger/claims/"
_DONE_PREFIX = "ledger/done/"

_T = TypeVar("_T")


class InputIdentity(msgspec.Struct, frozen=True):
    """What must stay the same of an input file."""

    name: str
    size_bytes: int
    content_hash: str


class LedgerJob(msgspec.Struct, frozen=True):
    """``ledger/job.json``. ``fingerprint`` holds plain JSON, one entry a subject."""

    version: int
    created_at: str
    range_bytes: int
    inputs: tuple[InputIdentity, ...]
    fingerprint: dict[str, Any]

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the inputs and of each part of the fingerprint."""
        inputs = msgspec.to_builtins(self.inputs)
        return {"inputs": digest_json(inputs), **Fingerprint(self.fingerprint).digests}


class Claim(msgspec.Struct, frozen=True):
    """``ledger/claims/RANGE``: the last attempt that took the range, and when (ISO 8601, UTC)."""

    attempt: Attempt
    claimed_at: str


class Ledger:
    """The ledger of one output location, made by :meth:`open_or_create` or :meth:`load`."""

    def __init__(self, store: ObjectStore, job: LedgerJob, files: Sequence[InputFile]) -> None:
        self.job = job
        self.ranges: RangePlan = plan_ranges(files, job.range_bytes)
        self._store = store

    @classmethod
    def open_or_create(
        cls,
        store: ObjectStore,
        inputs: Sequence[InputFile],
        fingerprint: Fingerprint,
        range_bytes: int,
    ) -> Ledger:
        """The location's ledger; created if there is none. ``range_bytes`` counts only then.

        Raises LedgerMismatchError, saying what changed, if it is the ledger of a job with other
        inputs or another fingerprint, or if results lie there without a ledger.
        """
        files = sorted(inputs, key=lambda file: file.name)
        wanted = LedgerJob(
            version=LEDGER_VERSION,
            created_at=_timestamp(),
            range_bytes=range_bytes,
            inputs=tuple(_identity(file) for file in files),
            fingerprint=fingerprint.parts,
        )
        found = _read_job(store)
        if found is None:
            _refuse_orphans(store)
            created = store.put_if_absent(JOB_KEY, _encode(wanted))
            found = wanted if created else _read_job(store)
        if found is None:
            raise OutputError(f"{store.place}: {JOB_KEY} was removed while the job started")
        if changes := diff_jobs(found, wanted):
            raise LedgerMismatchError(
                f"{store.place}: this output belongs to another job; "
                f"changed since {found.created_at}: {describe_changes(changes)}; "
                "use a new output location, or undo the change to continue the old job"
            )
        return cls(store, found, files)

    @classmethod
    def load(cls, store: ObjectStore) -> Ledger:
        """The ledger that is there, for reading alone: its files need not be at hand.

        Raises InputNotFoundError if no job was ever started there, LedgerMismatchError if it is a
        ledger of another version.
        """
        job = _read_job(store)
        if job is None:
            raise InputNotFoundError(
                f"{store.place}: no job was started here ({JOB_KEY} is missing); "
                "give the output location of a job"
            )
        if job.version != LEDGER_VERSION:
            raise LedgerMismatchError(
                f"{store.place}: the ledger has version {job.version}, this program reads version "
                f"{LEDGER_VERSION}; use the version of PipeMax that started the job"
            )
        files = [InputFile(file.name, file.size_bytes, file.content_hash) for file in job.inputs]
        return cls(store, job, files)

    def claim(self, range_index: int, worker: str) -> Attempt:
        """Announce that ``worker`` takes the range; its attempt is newer than all announced."""
        last = self.read_claim(range_index)
        attempt = Attempt(last.attempt.number + 1 if last else 1, worker)
        self._store.put(_claim_key(range_index), _encode(Claim(attempt, _timestamp())))
        return attempt

    def read_claim(self, range_index: int) -> Claim | None:
        """The last claim of the range; None if there is none that can be read."""
        try:
            return msgspec.json.decode(self._store.get(_claim_key(range_index)), type=Claim)
        except (ObjectNotFoundError, msgspec.DecodeError):
            return None

    def finish(self, summary: RangeSummary) -> None:
        """Mark a range as done, its chain being complete. Nothing happens if it is marked."""
        key = f"{_DONE_PREFIX}{summary.range_index:08d}.json"
        self._store.put_if_absent(key, _encode(summary))
        self._store.delete(_claim_key(summary.range_index))

    def done_ranges(self) -> set[int]:
        """Indices of the ranges that are done."""
        keys = self._store.list(_DONE_PREFIX)
        return {int(key.removeprefix(_DONE_PREFIX).removesuffix(".json")) for key in keys}

    def summaries(self) -> Iterator[RangeSummary]:
        """What the done ranges hold, in order."""
        for key in self._store.list(_DONE_PREFIX):
            yield _decode(self._store, key, RangeSummary)

    @property
    def is_finished(self) -> bool:
        """Whether every range is done."""
        return len(self.done_ranges()) == len(self.ranges)


def diff_jobs(old: LedgerJob, new: LedgerJob) -> tuple[Change, ...]:
    """What makes ``new`` another job than ``old``. The range size does not."""
    if old.version != new.version:
        return (Change("ledger version", old.version, new.version),)
    changes = diff_values(_inputs_by_name(old), _inputs_by_name(new))
    return changes + diff_values(old.fingerprint, new.fingerprint)


def _inputs_by_name(job: LedgerJob) -> dict[str, Any]:
    return {
        f"input {file.name}": {"size_bytes": file.size_bytes, "content_hash": file.content_hash}
        for file in job.inputs
    }


def _identity(file: InputFile) -> InputIdentity:
    return InputIdentity(file.name, file.size_bytes, file.content_hash)


def _read_job(store: ObjectStore) -> LedgerJob | None:
    try:
        return _decode(store, JOB_KEY, LedgerJob)
    except ObjectNotFoundError:
        return None


def _refuse_orphans(store: ObjectStore) -> None:
    """Records of an unknown job must not count as ours: the chain would take them for done."""
    if store.list(RESULTS_PREFIX) and not store.exists(JOB_KEY):
        raise LedgerMismatchError(
            f"{store.place}: {RESULTS_PREFIX} holds records but {JOB_KEY} is missing, so nobody "
            "knows which job they belong to; use a new output location, or remove the old results"
        )


def _claim_key(range_index: int) -> str:
    return f"{_CLAIMS_PREFIX}{range_index:08d}"


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _encode(value: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _decode(store: ObjectStore, key: str, kind: type[_T]) -> _T:
    data = store.get(key)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise OutputError(
            f"{store.place}: {key} cannot be read: {error}; "
            "it was changed from outside or written by another version: restore it"
        ) from error
