"""The ledger in a job's output: found, or made once the job is sure to run."""

from __future__ import annotations

from pipemax_worker.dataset.chain import RESULTS_PREFIX
from pipemax_worker.dataset.ledger import JOB_KEY, Ledger
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.dataset.ranges import choose_range_bytes
from pipemax_worker.runner.preparation import PreparedJob, fingerprint_of


def open_ledger(prepared: PreparedJob, store: ObjectStore) -> Ledger:
    """The output's ledger, created if there is none: the output belongs to this job from now on.

    Raises LedgerMismatchError where it belongs to another one.
    """
    total_bytes = sum(file.size_bytes for file in prepared.inputs)
    return Ledger.open_or_create(
        store, prepared.inputs, fingerprint_of(prepared), choose_range_bytes(total_bytes)
    )


def find_ledger(prepared: PreparedJob, store: ObjectStore) -> Ledger | None:
    """The output's ledger if one is there, else None, and nothing is written: a job whose model
    turns out to be broken must not bind its output to that model.

    Raises LedgerMismatchError where it is another job's, or results lie there without one.
    """
    if store.exists(JOB_KEY) or store.list(RESULTS_PREFIX):
        return open_ledger(prepared, store)
    return None
