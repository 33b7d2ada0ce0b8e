"""From the API server's documents to ``Observed``. Pure: parses, decides nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pipemax_operator.conditions import parse_time
from pipemax_operator.manifests.batch_job import DIGEST_ANNOTATION
from pipemax_operator.observed import (
    JobCondition,
    Observed,
    ObservedJob,
    ObservedPod,
    Termination,
)
from pipemax_operator.progress import parse_progress

Document = dict[str, Any]

_INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
_QUIET_WAITING = frozenset({"ContainerCreating", "PodInitializing"})


def observe(
    inference_job: Document,
    batch_job: Document | None,
    pods: Iterable[Document],
    progress: Mapping[str, Document],
) -> Observed:
    """Everything that a plan needs, from one fresh reading."""
    metadata = inference_job["metadata"]
    return Observed(
        generation=metadata["generation"],
        created_at=parse_time(metadata["creationTimestamp"]),
        uid=metadata["uid"],
        status=inference_job.get("status") or {},
        is_deleting="deletionTimestamp" in metadata,
        job=None if batch_job is None else parse_batch_job(batch_job),
        pods=tuple(sorted((parse_pod(pod) for pod in pods), key=lambda pod: (pod.index, pod.name))),
        progress=tuple(parse_progress(name, body) for name, body in sorted(progress.items())),
    )


def parse_batch_job(document: Document) -> ObservedJob:
    status = document.get("status") or {}
    start = status.get("startTime")
    return ObservedJob(
        uid=document["metadata"]["uid"],
        spec_digest=(document["metadata"].get("annotations") or {}).get(DIGEST_ANNOTATION, ""),
        suspended=bool(document["spec"].get("suspend")),
        deadline_seconds=document["spec"].get("activeDeadlineSeconds"),
        active=status.get("active", 0),
        ready=status.get("ready", 0),
        succeeded=status.get("succeeded", 0),
        failed=status.get("failed", 0),
        num_failed_indexes=count_indexes(status.get("failedIndexes", "")),
        start_time=parse_time(start) if start else None,
        conditions=tuple(
            JobCondition(c["type"], c["status"], c.get("reason", ""), c.get("message", ""))
            for c in status.get("conditions") or ()
        ),
    )


def count_indexes(text: str) -> int:
    """How many indexes ``1,3-5,7`` names: 5."""
    total = 0
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return total


def parse_pod(document: Document) -> ObservedPod:
    metadata, status = document["metadata"], document.get("status") or {}
    created = metadata.get("creationTimestamp")
    return ObservedPod(
        name=metadata["name"],
        phase=status.get("phase", "Pending"),
        index=int((metadata.get("annotations") or {}).get(_INDEX_ANNOTATION, 0)),
        node=(document.get("spec") or {}).get("nodeName", ""),
        address=status.get("podIP", ""),
        is_ready=_has_condition(status, "Ready"),
        is_terminating="deletionTimestamp" in metadata,
        since=parse_time(created) if created else None,
        waiting=_waiting(status),
        termination=_termination(status),
    )


def _has_condition(status: Document, kind: str) -> bool:
    return any(c["type"] == kind and c["status"] == "True" for c in status.get("conditions") or ())


def _waiting(status: Document) -> tuple[str, str] | None:
    """Why the pod does not run: the kubelet's word on a container, else the scheduler's."""
    for container in _container_statuses(status):
        waiting = (container.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") not in _QUIET_WAITING:
            return waiting.get("reason", "Waiting"), waiting.get("message", "")
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return condition.get("reason", "Unschedulable"), condition.get("message", "")
    return None


def _termination(status: Document) -> Termination | None:
    for container in status.get("containerStatuses") or ():
        ended = (container.get("state") or {}).get("terminated")
        if ended:
            return _parse_termination(ended)
    return None


def _parse_termination(ended: Document) -> Termination:
    """The worker writes JSON; what the kubelet wrote (OOMKilled) is taken as it is."""
    finished: datetime | None = None
    if ended.get("finishedAt"):
        finished = parse_time(ended["finishedAt"])
    try:
        said = json.loads(ended.get("message") or "")
    except json.JSONDecodeError:
        said = None
    if not isinstance(said, dict):
        said = {"reason": ended.get("reason", ""), "message": ended.get("message", "")}
    return Termination(
        exit_code=ended.get("exitCode", 0),
        reason=str(said.get("reason") or ""),
        message=str(said.get("message") or ""),
        finished_at=finished,
        counts=said.get("counts") or {},
    )


def _container_statuses(status: Document) -> Sequence[Document]:
    both = (status.get("initContainerStatuses") or [], status.get("containerStatuses") or [])
    return [container for group in both for container in group]
