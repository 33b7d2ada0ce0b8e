"""What is to be done about one InferenceJob now: ``plan(job, observed, now) -> Plan``. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pipemax_worker.job import InferenceJob

from pipemax_operator.conditions import COMPLETE, FAILED, final_condition, parse_time
from pipemax_operator.manifests.batch_job import build_batch_job
from pipemax_operator.manifests.config_map import build_config_map
from pipemax_operator.manifests.metadata import Owner
from pipemax_operator.observed import Observed
from pipemax_operator.outcome import Outcome, derive_outcome
from pipemax_operator.settings import OperatorSettings
from pipemax_operator.status import build_status


@dataclass(frozen=True)
class Event:
    """One that a person wants to see."""

    reason: str
    message: str
    is_warning: bool = False


@dataclass(frozen=True)
class Plan:
    """In this order: apply, delete, status, events.

    apply            documents for server-side apply.
    child_changes    fields of the child Job's spec that are to be others; None takes one away.
    delete_child     stop the pods, keep the InferenceJob and all records.
    delete_self      the InferenceJob's time after its end is over.
    status           None: it is right as it is.
    requeue_seconds  look again after that long, without an event; None: events tell.
    """

    apply: tuple[dict[str, Any], ...] = ()
    child_changes: dict[str, Any] = field(default_factory=dict)
    delete_child: bool = False
    delete_self: bool = False
    status: dict[str, Any] | None = None
    events: tuple[Event, ...] = ()
    requeue_seconds: float | None = None


def plan(
    job: InferenceJob,
    observed: Observed,
    now: datetime,
    settings: OperatorSettings,
    namespace: str,
) -> Plan:
    """Level-triggered: made from what is, not from what has happened; twice the same is once."""
    if observed.is_deleting:
        return Plan()
    if (final := final_condition(observed.status.get("conditions", ()))) is not None:
        return _after_the_end(job, observed, now, final)
    owner = Owner(namespace, observed.uid)
    outcome = derive_outcome(job, observed, now)
    status = build_status(observed, outcome, now)
    return Plan(
        apply=() if observed.job else _children(job, owner, settings),
        child_changes=_child_changes(job, observed),
        delete_child=outcome.phase == "Failed" and outcome.is_stuck,
        status=status if status != observed.status else None,
        events=_events(observed, outcome),
        requeue_seconds=_requeue_seconds(outcome, settings),
    )


def _children(
    job: InferenceJob, owner: Owner, settings: OperatorSettings
) -> tuple[dict[str, Any], ...]:
    return build_config_map(job, owner), build_batch_job(job, owner, settings)


def _child_changes(job: InferenceJob, observed: Observed) -> dict[str, Any]:
    """What may change while a job runs. With a queue, what is not suspended by the user is Kueue's
    to release."""
    child = observed.job
    if child is None:
        return {}
    changes: dict[str, Any] = {}
    is_queued = job.spec.scheduling.queue_name is not None
    if child.suspended != job.spec.suspend and (job.spec.suspend or not is_queued):
        changes["suspend"] = job.spec.suspend
    if child.deadline_seconds != job.spec.deadline:
        changes["activeDeadlineSeconds"] = job.spec.deadline
    return changes


def _after_the_end(
    job: InferenceJob, observed: Observed, now: datetime, final: dict[str, Any]
) -> Plan:
    ttl = job.spec.ttl_seconds_after_finished
    if ttl is None:
        return Plan()
    left = parse_time(final["lastTransitionTime"]) + timedelta(seconds=ttl) - now
    if left.total_seconds() <= 0:
        return Plan(delete_self=True)
    return Plan(requeue_seconds=left.total_seconds())


def _events(observed: Observed, outcome: Outcome) -> tuple[Event, ...]:
    """One for each change that the status will show; none for the same thing again."""
    before = {c["type"]: c for c in observed.status.get("conditions", ())}
    told = {(c["reason"], c["status"]) for c in before.values()}
    if observed.status.get("phase") == outcome.phase and any(
        reason == outcome.reason for reason, _ in told
    ):
        return ()
    is_warning = outcome.phase in ("Failed", "CompletedWithErrors") or outcome.is_stuck
    return (Event(outcome.reason, outcome.message, is_warning),)


def _requeue_seconds(outcome: Outcome, settings: OperatorSettings) -> float | None:
    """Running workers are polled; pods that wait get stuck without an event."""
    if outcome.phase in ("Running", "Pending"):
        return settings.poll_seconds
    return None


__all__ = ["COMPLETE", "FAILED", "Event", "Plan", "plan"]
