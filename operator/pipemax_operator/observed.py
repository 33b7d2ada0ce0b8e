"""What the operator has seen of one InferenceJob and its children: frozen values, no client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipemax_operator.energy import EnergyUsed
from pipemax_operator.ownership import TakenName
from pipemax_operator.progress import WorkerProgress as WorkerProgress

DEFAULT_GPU_RESOURCE = "nvidia.com/gpu"


@dataclass(frozen=True)
class JobCondition:
    """A condition of the child Job."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


def parse_conditions(status: Mapping[str, Any]) -> tuple[JobCondition, ...]:
    """Of the status of a Job or a Workload."""
    return tuple(
        JobCondition(c["type"], c["status"], c.get("reason", ""), c.get("message", ""))
        for c in status.get("conditions") or ()
    )


@dataclass(frozen=True)
class ObservedJob:
    """The child batch/v1 Job. ``spec_digest``: of the spec that it was made from; ``queue_name``:
    Kueue's LocalQueue, as the Job's label names it."""

    uid: str
    spec_digest: str = ""
    queue_name: str = ""
    num_indexes: int = 1
    suspended: bool = False
    deadline_seconds: int | None = None
    active: int = 0
    ready: int = 0
    succeeded: int = 0
    failed: int = 0
    num_failed_indexes: int = 0
    start_time: datetime | None = None
    conditions: tuple[JobCondition, ...] = ()

    def condition(self, kind: str) -> JobCondition | None:
        """The condition of that type, if it is True."""
        return next((c for c in self.conditions if c.type == kind and c.status == "True"), None)


@dataclass(frozen=True)
class ObservedWorkload:
    """Kueue's Workload of the child Job. ``is_stopped_by_operator``: for ``spec.suspend``."""

    name: str
    is_active: bool = True
    is_stopped_by_operator: bool = False
    conditions: tuple[JobCondition, ...] = ()

    def condition(self, kind: str, status: str) -> JobCondition | None:
        return next((c for c in self.conditions if (c.type, c.status) == (kind, status)), None)


@dataclass(frozen=True)
class Termination:
    """How a worker ended: exit code, and its termination message ``{reason, message, ...}``."""

    exit_code: int
    reason: str = ""
    message: str = ""
    finished_at: datetime | None = None
    counts: dict[str, int] = field(default_factory=dict)
    energy: EnergyUsed = field(default_factory=EnergyUsed)


@dataclass(frozen=True)
class ObservedPod:
    """One worker pod. ``waiting``: (reason, message) of why it does not run, from the kubelet or
    the scheduler; ``since``: when it was made; ``started_at``: when a node took it.

    given_up_at     when Kubernetes asked for its end because its node does not answer.
    unready_since   when Kubernetes marked it as not ready for its node's sake, its container being
                    ready by the last word of the kubelet.
    """

    name: str
    phase: str
    uid: str = ""
    resource_version: str = ""
    index: int = 0
    node: str = ""
    address: str = ""
    is_ready: bool = False
    is_terminating: bool = False
    since: datetime | None = None
    started_at: datetime | None = None
    given_up_at: datetime | None = None
    unready_since: datetime | None = None
    waiting: tuple[str, str] | None = None
    termination: Termination | None = None
    gates: tuple[str, ...] = ()
    affinity: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ObservedNode:
    """A node of the cluster. ``since``: when it became ready, or ceased to be; ``boot_id``: another
    one after each start of the machine; the numbers are of extended resources, such as GPUs."""

    name: str
    is_ready: bool
    since: datetime | None = None
    boot_id: str = ""
    capacity: Mapping[str, int] = field(default_factory=dict)
    allocatable: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Observed:
    """Everything that a plan is made from, besides the InferenceJob itself.

    ``status``: what its status says now. ``is_deleting``: it has a deletion timestamp.
    ``nodes``: None if the operator may not see them, or has no reason to look.
    ``watched_seconds``: pod's UID -> for how long this operator has seen it lost.
    ``gpu_resource``: what stands for one GPU of a node.
    ``taken``: what has the name of a child and is not the job's; ``job`` is the job's own.
    """

    generation: int
    created_at: datetime
    uid: str
    status: dict[str, Any] = field(default_factory=dict)
    is_deleting: bool = False
    job: ObservedJob | None = None
    workload: ObservedWorkload | None = None
    pods: tuple[ObservedPod, ...] = ()
    nodes: tuple[ObservedNode, ...] | None = None
    watched_seconds: Mapping[str, float] = field(default_factory=dict)
    progress: tuple[WorkerProgress, ...] = ()
    gpu_resource: str = DEFAULT_GPU_RESOURCE
    taken: TakenName | None = None
