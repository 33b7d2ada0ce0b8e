"""Whether a job's workers see the same output: each reads a mark there, and says it. Pure."""

from __future__ import annotations

from pipemax_operator.observed import Observed

STORE_NOT_SHARED = "StoreNotShared"


def find_unshared(observed: Observed) -> str | None:
    """Which nodes do not see the same output, and what helps; None as far as all that speak do.

    A path that every node has may be one network folder or a disk in each node. A worker alone
    cannot tell; two that read different marks there prove the second, and each would compute the
    whole input.
    """
    nodes = {pod.name: pod.node or pod.name for pod in observed.pods if not pod.is_terminating}
    seen: dict[str, str] = {}
    for worker in observed.progress:
        if worker.ledger_mark and worker.pod in nodes:
            seen.setdefault(worker.ledger_mark, nodes[worker.pod])
    if len(seen) < 2:
        return None
    first, second = list(seen.values())[:2]
    return (
        f"the workers on {first} and {second} do not see the same output: spec.output.uri must be "
        "a network folder that is mounted on all nodes, a claim that several nodes may write "
        "(pvc://), or a bucket (s3://); or set spec.parallelism.nodes to 1"
    )
