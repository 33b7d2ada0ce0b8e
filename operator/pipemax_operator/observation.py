"""From the API server's documents to ``Observed``. Pure: parses, decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pipemax_operator.conditions import parse_time
from pipemax_operator.kueue import QUEUE_LABEL, parse_workload
from pipemax_operator.manifests.batch_job import DIGEST_ANNOTATION
from pipemax_operator.observed import (
    DEFAULT_GPU_RESOURCE,
    Observed,
    ObservedJob,
    ObservedNode,
    ObservedPod,
    parse_conditions,
)
from pipemax_operator.pod_events import add_events
from pipemax_operator.progress import parse_progress
from pipemax_operator.terminations import find_termination

Document = dict[str, Any]

_INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
_QUIET_WAITING = frozenset({"ContainerCreating", "PodInitializing"})


def observe(
    inference_job: Document,
    batch_job: Document | None,
    pods: Iterable[Document],
    progress: Mapping[str, Document],
    workload: Document | None = None,
    events: Mapping[str, Sequence[Document]] | None = None,
) -> Observed:
    """Everything that a plan needs, from one fresh reading. ``events``: about single pods, by their
    UID."""
    metadata = inference_job["metadata"]
    return Observed(
        generation=metadata["generation"],
        created_at=parse_time(metadata["creationTimestamp"]),
        uid=metadata["uid"],
        status=inference_job.get("status") or {},
        is_deleting="deletionTimestamp" in metadata,
        job=None if batch_job is None else parse_batch_job(batch_job),
        workload=None if workload is None else parse_workload(workload),
        pods=add_events(
            sorted((parse_pod(pod) for pod in pods), key=lambda pod: (pod.index, pod.name)),
            events or {},
        ),
        progress=tuple(parse_progress(name, body) for name, body in sorted(progress.items())),
        gpu_resource=_gpu_resource(inference_job),
    )


def parse_batch_job(document: Document) -> ObservedJob:
    status = document.get("status") or {}
    start = status.get("startTime")
    return ObservedJob(
        uid=document["metadata"]["uid"],
        spec_digest=(document["metadata"].get("annotations") or {}).get(DIGEST_ANNOTATION, ""),
        queue_name=(document["metadata"].get("labels") or {}).get(QUEUE_LABEL, ""),
        num_indexes=document["spec"].get("completions", 1),
        suspended=bool(document["spec"].get("suspend")),
        deadline_seconds=document["spec"].get("activeDeadlineSeconds"),
        active=status.get("active", 0),
        ready=status.get("ready", 0),
        succeeded=status.get("succeeded", 0),
        failed=status.get("failed", 0),
        num_failed_indexes=count_indexes(status.get("failedIndexes", "")),
        start_time=parse_time(start) if start else None,
        conditions=parse_conditions(status),
    )


def count_indexes(text: str) -> int:
    """How many indexes ``1,3-5,7`` names: 5."""
    total = 0
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return total


def find_deadline(child: Document | None, deadline_seconds: int | None) -> datetime | None:
    """When a child Job is ended; none without a deadline, or before it has started."""
    start = parse_batch_job(child).start_time if child else None
    if start is None or deadline_seconds is None:
        return None
    return start + timedelta(seconds=deadline_seconds)


def parse_pod(document: Document) -> ObservedPod:
    metadata, status = document["metadata"], document.get("status") or {}
    spec = document.get("spec") or {}
    created, started = metadata.get("creationTimestamp"), status.get("startTime")
    return ObservedPod(
        name=metadata["name"],
        phase=status.get("phase", "Pending"),
        uid=metadata.get("uid", ""),
        resource_version=metadata.get("resourceVersion", ""),
        index=int((metadata.get("annotations") or {}).get(_INDEX_ANNOTATION, 0)),
        node=spec.get("nodeName", ""),
        address=status.get("podIP", ""),
        is_ready=_has_condition(status, "Ready"),
        is_terminating="deletionTimestamp" in metadata,
        since=parse_time(created) if created else None,
        started_at=parse_time(started) if started else None,
        given_up_at=_given_up_at(status),
        unready_since=_unready_since(status),
        waiting=_waiting(status),
        termination=find_termination(status),
        gates=tuple(gate["name"] for gate in spec.get("schedulingGates") or ()),
        affinity=spec.get("affinity") or {},
    )


def parse_node(document: Document) -> ObservedNode:
    """A node that has never said anything is not ready."""
    status = document.get("status") or {}
    ready = _condition(status, "Ready")
    return ObservedNode(
        name=document["metadata"]["name"],
        is_ready=ready is not None and ready["status"] == "True",
        since=_transition_time(ready),
        boot_id=(status.get("nodeInfo") or {}).get("bootID", ""),
        capacity=_extended_resources(status.get("capacity")),
        allocatable=_extended_resources(status.get("allocatable")),
    )


def _extended_resources(amounts: Mapping[str, str] | None) -> dict[str, int]:
    """Those with a domain, which come in whole numbers: GPUs and the like."""
    given = (amounts or {}).items()
    return {name: int(amount) for name, amount in given if "/" in name and amount.isdigit()}


def _gpu_resource(inference_job: Document) -> str:
    scheduling = (inference_job.get("spec") or {}).get("scheduling") or {}
    name: str = scheduling.get("gpuResourceName", DEFAULT_GPU_RESOURCE)
    return name


def _has_condition(status: Document, kind: str) -> bool:
    found = _condition(status, kind)
    return found is not None and found["status"] == "True"


def _condition(status: Document, kind: str) -> Document | None:
    return next((c for c in status.get("conditions") or () if c["type"] == kind), None)


def _transition_time(condition: Document | None) -> datetime | None:
    text = (condition or {}).get("lastTransitionTime")
    return parse_time(text) if text else None


def _given_up_at(status: Document) -> datetime | None:
    disruption = _condition(status, "DisruptionTarget")
    by_taint = disruption is not None and disruption.get("reason") == "DeletionByTaintManager"
    return _transition_time(disruption) if by_taint else None


def _unready_since(status: Document) -> datetime | None:
    """No kubelet writes this: a ready container in a pod that is not. The node controller does."""
    ready = _condition(status, "Ready")
    is_marked = ready is not None and ready["status"] == "False"
    containers = status.get("containerStatuses") or ()
    if not is_marked or not containers or not all(c.get("ready") for c in containers):
        return None
    return _transition_time(ready)


def _waiting(status: Document) -> tuple[str, str] | None:
    """Why the pod does not run: the kubelet's word on a container, else the scheduler's."""
    for container in _container_statuses(status):
        waiting = (container.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") not in _QUIET_WAITING:
            return waiting.get("reason", "Waiting"), waiting.get("message", "")
    scheduled = _condition(status, "PodScheduled")
    is_over = status.get("phase") in ("Failed", "Succeeded")
    if scheduled is None or scheduled["status"] != "False" or is_over:
        return None
    return scheduled.get("reason", "Unschedulable"), scheduled.get("message", "")


def _container_statuses(status: Document) -> Sequence[Document]:
    both = (status.get("initContainerStatuses") or [], status.get("containerStatuses") or [])
    return [container for group in both for container in group]
