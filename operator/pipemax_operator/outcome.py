"""How a job stands, in one value: derived from its children, before it is put into words. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipemax_worker.job import InferenceJob

from pipemax_operator import kueue
from pipemax_operator.avoided_nodes import describe as describe_avoided
from pipemax_operator.conditions import SUSPENDED, parse_time
from pipemax_operator.gpu_losses import find_avoided
from pipemax_operator.node_loss import LostPod, find_lost_pods
from pipemax_operator.node_loss_condition import NODE_LOST, describe, was_replaced
from pipemax_operator.observed import Observed, ObservedPod
from pipemax_operator.output_sharing import STORE_NOT_SHARED, find_unshared
from pipemax_operator.ownership import TakenName
from pipemax_operator.pod_events import TOLD_BY_EVENTS
from pipemax_operator.pod_failures import find_failing

# Reasons for which a pod does not run now and will not by waiting a moment longer.
STUCK_REASONS = frozenset(
    {
        "Unschedulable",
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
        "FailedScheduling",
        *TOLD_BY_EVENTS,
    }
)
_PATIENCE = timedelta(seconds=20)

NAME_TAKEN = "NameTaken"
"""Reason: an object that is not the job's has the name of one of its children."""
WAITING_FOR_NAME = "WaitingForName"
"""Reason: it has it for a while longer."""


@dataclass(frozen=True)
class Outcome:
    """``phase``: one of ``crd_status.PHASES``. ``is_stuck``: its pods cannot run, for a reason."""

    phase: str
    reason: str
    message: str
    is_stuck: bool = False

    @property
    def is_final(self) -> bool:
        return self.phase in ("Complete", "CompletedWithErrors", "Failed")


def derive_outcome(job: InferenceJob, observed: Observed, now: datetime) -> Outcome:
    """Where the job stands. The worker's own word (its termination message, written from the
    ledger) decides whether all records are there; the child Job only says that pods have ended."""
    child = observed.job
    if child is None and job.spec.suspend:
        return _suspended(job, observed)
    if child is None and observed.taken is not None:
        return _without_name(job, observed, observed.taken, now)
    if child is None:
        return Outcome("Pending", "Creating", "the child Job is about to be made")
    if child.condition("Complete") is not None or _has_last_word(observed.pods):
        return _complete(observed.pods)
    if (failed := child.condition("Failed")) is not None:
        return _failed(observed.pods, failed.reason, failed.message)
    if child.suspended:
        return _suspended(job, observed)
    if (unshared := find_unshared(observed)) is not None:
        return Outcome("Failed", STORE_NOT_SHARED, unshared, is_stuck=True)
    if child.ready:
        num_nodes = job.spec.parallelism.nodes
        return Outcome("Running", "WorkersRunning", f"{child.ready} of {num_nodes} workers run")
    if (lost := find_lost_pods(observed, now)) and _are_all_alive(lost, observed.pods):
        return Outcome("Pending", NODE_LOST, describe(lost))
    # It had its start: a lost worker's successor without room waits for that node, or another.
    deadline = math.inf if was_replaced(observed.status) else job.spec.start_deadline
    return _waiting(observed, now, deadline)


def _without_name(
    job: InferenceJob, observed: Observed, taken: TakenName, now: datetime
) -> Outcome:
    """A name that gets free by itself is waited for; for another somebody has to act, in the time
    that a job has to start. One that had its start, and lost its child since, waits."""
    if taken.is_leaving:
        return Outcome("Pending", WAITING_FOR_NAME, taken.message)
    deadline = math.inf if "startTime" in observed.status else job.spec.start_deadline
    lasting = now - _released_at(observed, now)
    return _not_started(NAME_TAKEN, taken.message, lasting, deadline)


def _released_at(observed: Observed, now: datetime) -> datetime:
    """Since when the job may run, as far as an operator has seen it: one that is not suspended."""
    said = observed.status.get("conditions", ())
    suspended = next((one for one in said if one["type"] == SUSPENDED), None)
    if suspended is None or suspended["status"] == "True":
        return now
    return parse_time(suspended["lastTransitionTime"])


def _are_all_alive(lost: Sequence[LostPod], pods: Sequence[ObservedPod]) -> bool:
    """Whether ``lost`` are all the pods that have not ended."""
    return len(lost) == sum(pod.phase in ("Pending", "Running") for pod in pods)


def _has_last_word(pods: Sequence[ObservedPod]) -> bool:
    """Whether a worker has seen every record written: then it does not matter what became of the
    other indexes, nor that the child Job has failed for them."""
    return any(p.termination and not p.termination.exit_code and p.termination.counts for p in pods)


def _failed(pods: Sequence[ObservedPod], reason: str, message: str) -> Outcome:
    """The worst-hit worker's own words, where it left any."""
    ended = [pod.termination for pod in pods if pod.termination and pod.termination.exit_code]
    ended.sort(key=lambda one: (one.finished_at is None, one.finished_at))
    if reason == "DeadlineExceeded":
        return Outcome(
            "Failed", reason, "spec.deadline has passed; what is finished is at the output"
        )
    if ended and ended[-1].reason:
        return Outcome("Failed", ended[-1].reason, ended[-1].message)
    return Outcome("Failed", reason or "Failed", message or "the child Job has failed")


def _complete(pods: Sequence[ObservedPod]) -> Outcome:
    counts = next(
        (pod.termination.counts for pod in pods if pod.termination and pod.termination.counts), {}
    )
    num_failed = counts.get("failed", 0)
    total = counts.get("completed", 0) + num_failed
    if num_failed:
        return Outcome(
            "CompletedWithErrors",
            "CompletedWithErrors",
            f"{total} requests have a record, {num_failed} of them an error record",
        )
    described = f"{total} requests succeeded" if counts else "every request has a record"
    return Outcome("Complete", "AllRecordsWritten", described)


def _suspended(job: InferenceJob, observed: Observed) -> Outcome:
    if job.spec.suspend:
        return Outcome("Suspended", "SuspendedByUser", "spec.suspend is true")
    if observed.job is not None and kueue.is_held(observed):
        return Outcome("Suspended", *kueue.describe_hold(observed.job, observed.workload))
    return Outcome("Suspended", "Resuming", "the pods are about to be made again")


def _waiting(observed: Observed, now: datetime, start_deadline_seconds: float) -> Outcome:
    """No worker is ready: the cluster's reason, else the workers' own, else it takes its time."""
    pods, failing = observed.pods, find_failing(observed, now)
    for pod in pods:
        stuck_for = now - pod.since if pod.since else timedelta()
        if pod.waiting is None or pod.waiting[0] not in STUCK_REASONS or stuck_for < _PATIENCE:
            continue
        reason, message = pod.waiting
        text = f"pod {pod.name} cannot run: {message or reason}{_why_so_few_nodes(observed)}"
        return _not_started(reason, text, stuck_for, start_deadline_seconds)
    if failing is not None:
        lasting = now - failing.since if failing.since and failing.is_loop else timedelta()
        return _not_started(failing.reason, failing.message, lasting, start_deadline_seconds)
    if any(pod.phase == "Running" for pod in pods):
        return Outcome("Pending", "Loading", "workers load the model")
    return Outcome("Pending", "PodsPending", "waiting for the pods to start")


def _not_started(
    reason: str, text: str, lasting: timedelta, start_deadline_seconds: float
) -> Outcome:
    if lasting.total_seconds() > start_deadline_seconds:
        return Outcome("Failed", "StartDeadlineExceeded", text, is_stuck=True)
    return Outcome("Pending", reason, text, is_stuck=True)


def _why_so_few_nodes(observed: Observed) -> str:
    """What the scheduler cannot know: it calls an avoided node one that does not match."""
    avoided = find_avoided(observed)
    return f"; {describe_avoided(avoided)}" if avoided else ""
