"""Jobs that Kueue holds and releases: what its Workload says, and what is asked of it. Pure.

A batch/v1 Job that Kueue manages has a Workload. Its ``suspend`` is Kueue's: an admitted Workload's
Job is released at once, whoever has suspended it. A user's ``spec.suspend`` is therefore carried to
``Workload.spec.active``, as ``kubectl kueue stop workload`` does: the Job is evicted in order, the
quota goes to others, and what an administrator has stopped stays stopped.
"""

from __future__ import annotations

from typing import Any

from pipemax_worker.job import InferenceJob

from pipemax_operator import names
from pipemax_operator.observed import (
    Observed,
    ObservedJob,
    ObservedWorkload,
    parse_conditions,
)

Document = dict[str, Any]

GROUP = "kueue.x-k8s.io"
QUEUE_LABEL = f"{GROUP}/queue-name"
JOB_UID_LABEL = f"{GROUP}/job-uid"
"""Label of a Workload: the Job that it stands for."""

HOLD_REASONS = ("Queued", "Evicted")
"""Of a suspended job that Kueue is to release."""

READMISSION = "Readmission"
"""Reason of the event: a change of the spec sends a released job back into its queue."""

STOPPED_ANNOTATION = f"{names.GROUP}/suspended"
"""On a Workload that the operator has stopped: it alone starts that one again."""


def parse_workload(document: Document) -> ObservedWorkload:
    metadata, status = document["metadata"], document.get("status") or {}
    return ObservedWorkload(
        name=metadata["name"],
        is_active=(document.get("spec") or {}).get("active", True),
        is_stopped_by_operator=STOPPED_ANNOTATION in (metadata.get("annotations") or {}),
        conditions=parse_conditions(status),
    )


def may_have_workload(job: InferenceJob, child: ObservedJob) -> bool:
    """Whether a Workload is to be looked for: of a job that runs on, nothing is to be known.

    Whatever the spec says of queues: they can come by a label of the InferenceJob, a namespace's
    default LocalQueue, a Kueue that manages every Job."""
    return child.suspended or job.spec.suspend


def is_held(observed: Observed) -> bool:
    """Whether the child Job is Kueue's to release."""
    child = observed.job
    return observed.workload is not None or (child is not None and bool(child.queue_name))


def workload_changes(job: InferenceJob, workload: ObservedWorkload | None) -> Document:
    """A merge patch that carries ``spec.suspend`` to the Workload; empty: it is as it should be."""
    if workload is None:
        return {}
    if job.spec.suspend and workload.is_active:
        return _activation(workload.name, False, "true")
    if not job.spec.suspend and not workload.is_active and workload.is_stopped_by_operator:
        return _activation(workload.name, True, None)
    return {}


def describe_readmission(job: InferenceJob, child: ObservedJob) -> str | None:
    """What a change of ``parallelism.nodes`` means to a job that Kueue has released; None where it
    means nothing further. Kueue refuses none: it makes the Workload of a held job fit, in its place
    in the queue, and stops a released one, whose Workload then begins anew."""
    num_nodes = job.spec.parallelism.nodes
    is_changed = child.num_indexes != num_nodes and not job.spec.suspend
    if child.suspended or not child.queue_name or not is_changed:
        return None
    return (
        f"spec.parallelism.nodes is {num_nodes}, was {child.num_indexes}: Kueue stops the workers, "
        f"which park their KV, and admits the job anew from LocalQueue {child.queue_name}"
    )


def describe_hold(child: ObservedJob, workload: ObservedWorkload | None) -> tuple[str, str]:
    """Reason and message of a suspended job that Kueue is to release, in Kueue's own words."""
    queue = f"LocalQueue {child.queue_name}" if child.queue_name else "the queue"
    if workload is None:
        return "Queued", (
            f"waiting for Kueue to make a Workload in {queue}; if that lasts, look whether it is "
            "installed and manages this namespace, and whether the job's priority class exists"
        )
    pending = workload.condition("QuotaReserved", "False")
    said = [pending.message] if pending and pending.message else []
    evicted = workload.condition("Evicted", "True")
    if evicted is not None:
        said = [
            f"{evicted.reason}: {evicted.message}",
            *(one for one in said if one not in evicted.message),
        ]
    elif workload.condition("Admitted", "True") is not None:
        said = [f"admitted from {queue}; the pods are about to be made"]
    elif workload.condition("QuotaReserved", "True") is not None:
        said = [f"{queue} has reserved quota; admission checks are pending"]
    if not workload.is_active:
        said.append(f"Workload {workload.name} is stopped (spec.active: false)")
    words = "; ".join(said) or f"waiting in {queue}"
    return "Evicted" if evicted is not None else "Queued", f"Kueue: {words}"


def _activation(name: str, is_active: bool, mark: str | None) -> Document:
    metadata = {"name": name, "annotations": {STOPPED_ANNOTATION: mark}}
    return {"metadata": metadata, "spec": {"active": is_active}}
