"""What is to be done about one InferenceJob now: ``plan(job, observed, now) -> Plan``. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from pipemax_worker.job import InferenceJob

from pipemax_operator import job_policy, kueue, preflight_condition
from pipemax_operator.avoided_nodes import PodRelease, build_releases, find_outdated
from pipemax_operator.avoided_nodes import derive_condition as gpu_condition
from pipemax_operator.conditions import COMPLETE, FAILED, final_condition, parse_time
from pipemax_operator.gpu_losses import review_nodes
from pipemax_operator.manifests.batch_job import build_batch_job
from pipemax_operator.manifests.config_map import build_config_map
from pipemax_operator.manifests.metadata import Owner
from pipemax_operator.node_loss import LostPod, find_lost_pods, find_replaceable
from pipemax_operator.node_loss_condition import derive_condition
from pipemax_operator.observed import Observed, ObservedPod
from pipemax_operator.outcome import Outcome, derive_outcome
from pipemax_operator.ownership import TakenName
from pipemax_operator.settings import OperatorSettings
from pipemax_operator.status import build_status
from pipemax_operator.told_events import Event, derive_events

_POLLS_IN_QUEUE = 3
_QUIET = timedelta(seconds=20)
_PREDECESSOR_SECONDS = 1.0


@dataclass(frozen=True)
class Plan:
    """In this order: apply, replace, delete, status, events.

    apply            documents for server-side apply.
    child_changes    fields of the child Job's spec that are to be others; None takes one away.
    workload_changes a merge patch for Kueue's Workload of the child Job.
    replace          lost pods that are given up, so that others take their places.
    renew            pods without a node, and why others are to take their places.
    release          gated pods that may be scheduled now.
    delete_child     stop the pods, keep the InferenceJob and all records.
    delete_self      the InferenceJob's time after its end is over.
    status           None: it is right as it is.
    requeue_seconds  look again after that long, without an event; None: events tell.
    """

    apply: tuple[dict[str, Any], ...] = ()
    child_changes: dict[str, Any] = field(default_factory=dict)
    workload_changes: dict[str, Any] = field(default_factory=dict)
    replace: tuple[LostPod, ...] = ()
    renew: tuple[tuple[ObservedPod, str], ...] = ()
    release: tuple[PodRelease, ...] = ()
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
    if _is_about_to_start(observed, now):
        return Plan(requeue_seconds=_PREDECESSOR_SECONDS)
    owner = Owner(namespace, observed.uid)
    outcome = _find_refusal(job, observed, owner, settings) or derive_outcome(job, observed, now)
    if observed.job is not None and observed.taken is not None:
        outcome = _with_old_job_file(outcome, observed.taken)
    lost = find_lost_pods(observed, now)
    replaced = () if outcome.is_final else find_replaceable(job, observed, lost, now)
    said = derive_condition(job, observed, lost, replaced, outcome.is_final)
    review = review_nodes(observed)
    preflight = preflight_condition.derive_condition(observed)
    conditions = (said, preflight, gpu_condition(review, observed.status))
    further = [one for one in conditions if one is not None]
    status = build_status(observed, outcome, now, further)
    return Plan(
        apply=() if outcome.is_final else _children(job, observed, owner, settings),
        child_changes=_child_changes(job, observed),
        workload_changes=kueue.workload_changes(job, observed.workload),
        delete_child=outcome.phase == "Failed" and outcome.is_stuck and observed.job is not None,
        status=status if status != observed.status else None,
        replace=replaced,
        renew=() if outcome.is_final else find_outdated(observed, review),
        release=() if outcome.is_final else build_releases(observed, review.avoided),
        events=tuple(derive_events(job, observed, outcome, said, preflight, review)),
        requeue_seconds=_requeue_seconds(outcome, settings),
    )


def _is_about_to_start(observed: Observed, now: datetime) -> bool:
    """Made anew under the name of a job that was just deleted, whose children are on their way out:
    for a while that is no news."""
    is_waiting = observed.taken is not None and observed.taken.is_leaving and observed.job is None
    return is_waiting and now - observed.created_at < _QUIET


def _with_old_job_file(outcome: Outcome, taken: TakenName) -> Outcome:
    """The workers that run do not mind; those that start later would read somebody else's."""
    words = f"{outcome.message}; the spec's last change is not carried out: {taken.message}"
    return replace(outcome, message=words)


def _find_refusal(
    job: InferenceJob, observed: Observed, owner: Owner, settings: OperatorSettings
) -> Outcome | None:
    """Before there are pods. A job that runs goes on when less is allowed than before."""
    if observed.job is not None:
        return None
    forbidden = job_policy.find_forbidden(job, owner, settings)
    return None if forbidden is None else Outcome("Failed", job_policy.REASON, forbidden)


def _children(
    job: InferenceJob, observed: Observed, owner: Owner, settings: OperatorSettings
) -> tuple[dict[str, Any], ...]:
    """Made once; the job file anew with each change of the spec, for workers that start later."""
    if observed.taken is not None:
        return ()
    if observed.job:
        seen = observed.status.get("observedGeneration", observed.generation)
        is_known = seen == observed.generation
        return () if is_known else (build_config_map(job, owner, settings),)
    if job.spec.suspend:
        return ()  # suspended before its start: Kueue would release them
    return build_config_map(job, owner, settings), build_batch_job(job, owner, settings)


def _child_changes(job: InferenceJob, observed: Observed) -> dict[str, Any]:
    """What may change while a job runs. What Kueue holds is Kueue's to release, and is suspended by
    way of its Workload (:func:`kueue.workload_changes`)."""
    child = observed.job
    if child is None:
        return {}
    changes: dict[str, Any] = {}
    is_kueues = observed.workload is not None if job.spec.suspend else kueue.is_held(observed)
    if child.suspended != job.spec.suspend and not is_kueues:
        changes["suspend"] = job.spec.suspend
    if child.deadline_seconds != job.spec.deadline:
        changes["activeDeadlineSeconds"] = job.spec.deadline
    num_nodes = job.spec.parallelism.nodes
    if child.num_indexes != num_nodes:
        names = ("completions", "parallelism", "maxFailedIndexes")
        changes |= dict.fromkeys(names, num_nodes)
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


def _requeue_seconds(outcome: Outcome, settings: OperatorSettings) -> float | None:
    """Running workers are polled; pods that wait get stuck without an event, and Kueue's words on
    a job that waits change without one that we watch."""
    if outcome.phase in ("Running", "Pending"):
        return settings.poll_seconds
    if outcome.phase == "Suspended" and outcome.reason in kueue.HOLD_REASONS:
        return settings.poll_seconds * _POLLS_IN_QUEUE
    return None


__all__ = ["COMPLETE", "FAILED", "Event", "Plan", "plan"]
