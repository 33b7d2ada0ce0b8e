"""What the job is and which ranges are done: ``ledger/`` in the output location.

ledger/job.json              written once by the first worker: inputs, range sizes, fingerprint
ledger/claims/RANGE-ATTEMPT  who took a range (``claim_log``): advisory, saves work
ledger/workers/NAME.BEAT     who works (``heartbeats``)
ledger/done/RANGE            written once when the range's chain covers every line (``done_ranges``)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from datetime import UTC, datetime
from typing import Any

import msgspec

from pipemax_worker.dataset.chain import RESULTS_PREFIX, RangeSummary
from pipemax_worker.dataset.claim_log import ClaimLog, block_prefix
from pipemax_worker.dataset.documents import decode_document, encode_document
from pipemax_worker.dataset.done_ranges import DoneRanges
from pipemax_worker.dataset.fingerprint import (
    Change,
    Fingerprint,
    describe_changes,
    diff_values,
    digest_json,
)
from pipemax_worker.dataset.inputs import InputFile
from pipemax_worker.dataset.object_store import ObjectNotFoundError, ObjectStore
from pipemax_worker.dataset.ranges import RANGES_PER_SIZE, RangePlan, plan_ranges
from pipemax_worker.dataset.records import Attempt
from pipemax_worker.errors import InputNotFoundError, LedgerMismatchError, OutputError

LEDGER_VERSION = 2
JOB_KEY = "ledger/job.json"


class InputIdentity(msgspec.Struct, frozen=True):
    """What must stay the same of an input file."""

    name: str
    size_bytes: int
    content_hash: str


class _LedgerVersion(msgspec.Struct, frozen=True):
    """What every version of ``ledger/job.json`` has."""

    version: int


class LedgerJob(msgspec.Struct, frozen=True):
    """``ledger/job.json``. ``fingerprint`` holds plain JSON, one entry a subject.

    range_bytes, smallest_range_bytes, ranges_per_size   what ``plan_ranges`` cuts the input by.
    """

    version: int
    created_at: str
    range_bytes: int
    smallest_range_bytes: int
    ranges_per_size: int
    inputs: tuple[InputIdentity, ...]
    fingerprint: dict[str, Any]

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the inputs and of each part of the fingerprint."""
        inputs = msgspec.to_builtins(self.inputs)
        return {"inputs": digest_json(inputs), **Fingerprint(self.fingerprint).digests}


class Ledger:
    """The ledger of one output location, made by :meth:`open_or_create` or :meth:`load`.

    claims          who took which range.
    finished_here   ranges that this process has marked as done, for ``RangeClaims`` to take note.
    """

    def __init__(self, store: ObjectStore, job: LedgerJob, files: Sequence[InputFile]) -> None:
        self.job = job
        self.ranges: RangePlan = plan_ranges(
            files, job.range_bytes, job.smallest_range_bytes, job.ranges_per_size
        )
        self.store = store
        self.claims = ClaimLog(store)
        self.finished_here: list[int] = []
        self._done = DoneRanges(store, len(self.ranges))

    @classmethod
    def open_or_create(
        cls,
        store: ObjectStore,
        inputs: Sequence[InputFile],
        fingerprint: Fingerprint,
        range_bytes: int,
        smallest_range_bytes: int | None = None,
    ) -> Ledger:
        """The location's ledger; created if there is none. The sizes count only then; without a
        smallest one all ranges are of one size.

        Raises LedgerMismatchError, saying what changed, if it is the ledger of a job with other
        inputs or another fingerprint, or if results lie there without a ledger.
        """
        files = sorted(inputs, key=lambda file: file.name)
        wanted = build_ledger_job(files, fingerprint, range_bytes, smallest_range_bytes)
        found = _read_job(store)
        if found is None:
            _refuse_orphans(store)
            created = store.put_if_absent(JOB_KEY, encode_document(wanted))
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
        files = [InputFile(file.name, file.size_bytes, file.content_hash) for file in job.inputs]
        return cls(store, job, files)

    def claim(self, range_index: int, worker: str) -> Attempt:
        """Take the range, whoever has it; the attempt is newer than all before."""
        return self.claims.claim(range_index, worker)

    def finish(self, summary: RangeSummary) -> None:
        """Mark a range as done, its chain being complete. Nothing happens if it is marked."""
        self._done.finish(summary)
        self.finished_here.append(summary.range_index)

    def done_ranges(self, block: int | None = None) -> set[int]:
        """Indices of the ranges that are done (in a retry: for it), of all or of one block."""
        if block is None:
            return self._done.indices()
        return self.done_ranges_with(block_prefix(block))

    def done_ranges_with(self, digits: str) -> set[int]:
        """The same of all whose index begins so, of eight digits with leading zeros."""
        return self._done.indices(digits)

    def summaries(self, known: Set[int] = frozenset()) -> Iterator[RangeSummary]:
        """What the done ranges hold, but for those that are ``known``, in order."""
        return self._done.summaries(known)

    @property
    def is_finished(self) -> bool:
        """Whether every range is done."""
        return self._done.is_finished

    @property
    def retry(self) -> int:
        """The retry that this worker takes part in; 0 in the first pass over the input."""
        return self._done.pass_number

    def begin_retry(self) -> bool:
        """Begin or join a retry (:meth:`DoneRanges.begin_retry`); False if nothing failed and
        nothing is missing."""
        return self._done.begin_retry()

    def give_up_retry(self) -> None:
        """The retry was ended for good by errorPolicy: the next one is another."""
        self._done.give_up_retry()


def build_ledger_job(
    files: Sequence[InputFile],
    fingerprint: Fingerprint,
    range_bytes: int,
    smallest_range_bytes: int | None = None,
) -> LedgerJob:
    """A job that begins now. ``files`` are sorted by name."""
    return LedgerJob(
        version=LEDGER_VERSION,
        created_at=_timestamp(),
        range_bytes=range_bytes,
        smallest_range_bytes=smallest_range_bytes or range_bytes,
        ranges_per_size=RANGES_PER_SIZE,
        inputs=tuple(_identity(file) for file in files),
        fingerprint=fingerprint.parts,
    )


def diff_jobs(old: LedgerJob, new: LedgerJob) -> tuple[Change, ...]:
    """What makes ``new`` another job than ``old``. The range size does not."""
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
        version = decode_document(store, JOB_KEY, _LedgerVersion).version
        if version != LEDGER_VERSION:
            raise LedgerMismatchError(
                f"{store.place}: the ledger has version {version}, this program reads version "
                f"{LEDGER_VERSION}; use the version of PipeMax that started the job, or a new "
                "output location"
            )
        return decode_document(store, JOB_KEY, LedgerJob)
    except ObjectNotFoundError:
        return None


def _refuse_orphans(store: ObjectStore) -> None:
    """Records of an unknown job must not count as ours: the chain would take them for done."""
    if store.list(RESULTS_PREFIX) and not store.exists(JOB_KEY):
        raise LedgerMismatchError(
            f"{store.place}: {RESULTS_PREFIX} holds records but {JOB_KEY} is missing, so nobody "
            "knows which job they belong to; use a new output location, or remove the old results"
        )


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
