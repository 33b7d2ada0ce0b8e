"""InferenceJobs and their pods, from the API server's documents. Pure.

The worker's package has no Kubernetes client: documents come from ``kubectl``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

Document = Mapping[str, Any]

JOB_LABEL = "pipemax.dev/inferencejob"
METRICS_PORT = "metrics"
_ORDER = ("Running", "Pending", "Suspended", "Failed", "CompletedWithErrors", "Complete")


class JobLine(msgspec.Struct, frozen=True):
    """An InferenceJob as its status has it; what the operator has not said is None or empty.

    reason   why it is not running, or how it ended: of the condition that says so.
    """

    namespace: str
    name: str
    phase: str
    percent: str = ""
    summary: str = ""
    num_failed: int = 0
    tokens_per_second: int | None = None
    remaining: str = ""
    joules: int | None = None
    gpu_hours: float | None = None
    swap_bytes: dict[str, int] = {}
    reason: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name


class PodLine(msgspec.Struct, frozen=True):
    """A worker pod that runs; ``port``: where it serves its pages."""

    namespace: str
    job: str
    name: str
    node: str
    port: int

    @property
    def progress_path(self) -> str:
        """Through the API server's proxy."""
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}:{self.port}/proxy/progress"


def parse_jobs(items: Iterable[Document]) -> tuple[JobLine, ...]:
    """Those that run first, then those that wait, then the ended ones."""
    jobs = [_parse_job(item) for item in items]
    return tuple(sorted(jobs, key=lambda job: (_rank(job.phase), job.key)))


def _rank(phase: str) -> int:
    return _ORDER.index(phase) if phase in _ORDER else 1


def _parse_job(document: Document) -> JobLine:
    metadata, status = document["metadata"], document.get("status") or {}
    progress, energy = status.get("progress") or {}, status.get("energy") or {}
    return JobLine(
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        phase=status.get("phase", "Pending"),
        percent=progress.get("percent", ""),
        summary=progress.get("summary", ""),
        num_failed=progress.get("failed", 0),
        tokens_per_second=progress.get("tokensPerSecond"),
        remaining=progress.get("remaining", ""),
        joules=energy.get("joules"),
        gpu_hours=energy.get("gpuHours"),
        swap_bytes=status.get("swap") or {},
        reason=_find_reason(status),
    )


def _find_reason(status: Document) -> str:
    wanted = {"Pending": "Progressing", "Suspended": "Suspended", "Failed": "Failed"}
    kind = wanted.get(status.get("phase", "Pending"))
    found = (c for c in status.get("conditions") or () if c.get("type") == kind)
    return next((str(condition.get("reason", "")) for condition in found), "")


def parse_running_pods(items: Iterable[Document]) -> tuple[PodLine, ...]:
    """Pods of jobs that run and have a port to be asked at, by job and name."""
    pods = [_parse_pod(item) for item in items if _is_running(item)]
    return tuple(sorted((pod for pod in pods if pod is not None), key=_pod_key))


def _pod_key(pod: PodLine) -> tuple[str, str, str]:
    return pod.namespace, pod.job, pod.name


def _is_running(document: Document) -> bool:
    is_ending = "deletionTimestamp" in document["metadata"]
    return (document.get("status") or {}).get("phase") == "Running" and not is_ending


def _parse_pod(document: Document) -> PodLine | None:
    metadata, spec = document["metadata"], document.get("spec") or {}
    ports = (port for c in spec.get("containers") or () for port in c.get("ports") or ())
    port = next((p["containerPort"] for p in ports if p.get("name") == METRICS_PORT), None)
    if port is None:
        return None
    return PodLine(
        namespace=metadata.get("namespace", ""),
        job=(metadata.get("labels") or {}).get(JOB_LABEL, ""),
        name=metadata["name"],
        node=spec.get("nodeName", ""),
        port=port,
    )
