"""The ledger in a job's output: found, or made once the job is sure to run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pipemax_worker.dataset.chain import RESULTS_PREFIX
from pipemax_worker.dataset.earlier_results import EarlierResults, note_source
from pipemax_worker.dataset.ledger import JOB_KEY, Ledger, build_ledger_job
from pipemax_worker.dataset.manifest import withdraw_manifest, write_manifest
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.dataset.places import open_store
from pipemax_worker.dataset.ranges import MAX_RANGE_BYTES, MIN_RANGE_BYTES, choose_range_bytes
from pipemax_worker.errors import JobFileError, TooManyFailuresError
from pipemax_worker.runner.preparation import PreparedJob, fingerprint_of


def begin_retry(store: ObjectStore, ledger: Ledger) -> None:
    """From now on what failed or is missing is run again; joins a retry that is under way."""
    if ledger.begin_retry():
        withdraw_manifest(store)


@contextlib.contextmanager
def closing_failed_job(store: ObjectStore, ledger: Ledger) -> Iterator[None]:
    """Where too many requests fail in the block: a job that is complete all the same gets its
    manifest, and a retry that is not is given up, so that the next one tries all of it again."""
    try:
        yield
    except TooManyFailuresError:
        if ledger.is_finished:
            write_manifest(store, ledger)
        else:
            ledger.give_up_retry()
        raise


def find_earlier_results(prepared: PreparedJob) -> EarlierResults | None:
    """The results at ``spec.resumeFrom``; None if the job names none.

    Raises JobFileError if they are the job's own, InputNotFoundError if no job was ever started
    there, LedgerMismatchError if it was another one, saying in what.
    """
    places = prepared.places
    if places.resume_from is None:
        return None
    if places.resume_from.rstrip("/") == places.output.rstrip("/"):
        raise JobFileError(
            f"spec.resumeFrom: found the job's own output {places.output}, expected another "
            "place; a job goes on with what lies at its own output without being told"
        )
    job = build_ledger_job(prepared.inputs, fingerprint_of(prepared), MAX_RANGE_BYTES)
    return EarlierResults.open(open_store(places.resume_from), job)


def open_earlier_results(prepared: PreparedJob, store: ObjectStore) -> EarlierResults | None:
    """The same, and the job's ledger in ``store`` says from now on where they come from."""
    earlier = find_earlier_results(prepared)
    if prepared.places.resume_from is not None:
        note_source(store, prepared.places.resume_from)
    return earlier


def open_ledger(prepared: PreparedJob, store: ObjectStore) -> Ledger:
    """The output's ledger, created if there is none: the output belongs to this job from now on.

    Raises LedgerMismatchError where it belongs to another one.
    """
    total_bytes = sum(file.size_bytes for file in prepared.inputs)
    return Ledger.open_or_create(
        store,
        prepared.inputs,
        fingerprint_of(prepared),
        choose_range_bytes(total_bytes),
        MIN_RANGE_BYTES,
    )


def find_ledger(prepared: PreparedJob, store: ObjectStore) -> Ledger | None:
    """The output's ledger if one is there, else None, and nothing is written: a job whose model
    turns out to be broken must not bind its output to that model.

    Raises LedgerMismatchError where it is another job's, or results lie there without one.
    """
    if store.exists(JOB_KEY) or store.list(RESULTS_PREFIX):
        return open_ledger(prepared, store)
    return None
