"""What the operator has seen of one InferenceJob and its children: frozen values, no client."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipemax_operator.progress import WorkerProgress as WorkerProgress


@dataclass(frozen=True)
class JobCondition:
    """A condition of the child Job."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class ObservedJob:
    """The child batch/v1 Job. ``spec_digest``: of the spec that it was made from."""

    uid: str
    spec_digest: str = ""
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
class Termination:
    """How a worker ended: exit code, and its termination message ``{reason, message, ...}``."""

    exit_code: int
    reason: str = ""
    message: str = ""
    finished_at: datetime | None = None
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ObservedPod:
    """One worker pod. ``waiting``: (reason, message) of why it does not run, from the kubelet or
    the scheduler; ``since``: when it was made."""

    name: str
    phase: str
    index: int = 0
    node: str = ""
    address: str = ""
    is_ready: bool = False
    is_terminating: bool = False
    since: datetime | None = None
    waiting: tuple[str, str] | None = None
    termination: Termination | None = None


@dataclass(frozen=True)
class Observed:
    """Everything that a plan is made from, besides the InferenceJob itself.

    ``status``: what its status says now. ``is_deleting``: it has a deletion timestamp.
    """

    generation: int
    created_at: datetime
    uid: str
    status: dict[str, Any] = field(default_factory=dict)
    is_deleting: bool = False
    job: ObservedJob | None = None
    pods: tuple[ObservedPod, ...] = ()
    progress: tuple[WorkerProgress, ...] = ()
