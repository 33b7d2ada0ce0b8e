"""A job over several nodes starts only where they share its output."""

from __future__ import annotations

import os
from collections.abc import Callable

from pipemax_worker.contract.clock import MonotonicClock
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.dataset.s3_settings import parse_s3
from pipemax_worker.dataset.sharing import DEFAULT_WAIT_SECONDS, prove_sharing, read_this_node
from pipemax_worker.runner.preparation import PreparedJob


def check_sharing(
    prepared: PreparedJob,
    store: ObjectStore,
    say: Callable[[str], None],
    wait_seconds: float = DEFAULT_WAIT_SECONDS,
) -> None:
    """Nothing to prove for one node, nor for a bucket, which is the same from everywhere.

    Raises StoreNotSharedError, OutputError.
    """
    nodes = prepared.job.spec.parallelism.nodes
    if nodes == 1 or parse_s3(prepared.places.output) is not None:
        return
    this = read_this_node(os.environ)
    say(f"nodes: {nodes}; waiting for a sign of another one in {store.place}")
    other = prove_sharing(store, this, MonotonicClock(), wait_seconds)
    say(f"nodes: {this.name} and {other.name} share {store.place}")
