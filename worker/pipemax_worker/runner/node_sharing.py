"""A job over several nodes starts only where they share its output."""

from __future__ import annotations

import os
from collections.abc import Callable

from pipemax_worker.contract.clock import MonotonicClock
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.dataset.s3_settings import parse_s3
from pipemax_worker.dataset.sharing import (
    DEFAULT_WAIT_SECONDS,
    prove_sharing,
    read_or_leave_mark,
    read_this_node,
)
from pipemax_worker.errors import StoreNotSharedError
from pipemax_worker.runner.preparation import PreparedJob


def must_share(prepared: PreparedJob) -> bool:
    """Nothing to prove for one node, nor for a bucket, which is the same from everywhere."""
    nodes = prepared.job.spec.parallelism.nodes
    return nodes > 1 and parse_s3(prepared.places.output) is None


def leave_mark(prepared: PreparedJob, store: ObjectStore) -> str:
    """What ``/progress`` shows of the folder: the operator compares it. Empty if nothing is to be
    proven. Raises OutputError."""
    return read_or_leave_mark(store) if must_share(prepared) else ""


def check_sharing(
    prepared: PreparedJob,
    store: ObjectStore,
    say: Callable[[str], None],
    wait_seconds: float = DEFAULT_WAIT_SECONDS,
) -> None:
    """Wait for a sign of another node, where the nodes have to share the output.

    In a cluster a lone worker goes on: the other nodes may not be free for hours, and the operator
    ends a job whose workers do not see the same folder. Elsewhere nobody would.
    Raises StoreNotSharedError, OutputError.
    """
    if not must_share(prepared):
        return
    this = read_this_node(os.environ)
    nodes = prepared.job.spec.parallelism.nodes
    say(f"nodes: {nodes}; waiting for a sign of another one in {store.place}")
    try:
        other = prove_sharing(store, this, MonotonicClock(), wait_seconds)
    except StoreNotSharedError:
        if not this.is_named:
            raise
        say(f"nodes: {this.name} saw no other one in {wait_seconds:.0f} s and starts alone")
        return
    say(f"nodes: {this.name} and {other.name} share {store.place}")
