"""Events that a person wants to see: one for each change that the status shows. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipemax_worker.job import InferenceJob

from pipemax_operator import avoided_nodes, kueue, names, preflight_condition
from pipemax_operator.conditions import Condition, format_time
from pipemax_operator.gpu_losses import NodeReview
from pipemax_operator.node_loss_condition import NODE_LOST, find_condition
from pipemax_operator.observed import Observed
from pipemax_operator.outcome import NAME_TAKEN, Outcome


@dataclass(frozen=True)
class Event:
    """One that a person wants to see."""

    reason: str
    message: str
    is_warning: bool = False


def derive_events(
    job: InferenceJob,
    observed: Observed,
    outcome: Outcome,
    lost_nodes: Condition | None,
    preflight: Condition | None,
    review: NodeReview,
) -> Iterator[Event]:
    """In the order in which they are to be read."""
    yield from _outcome_events(observed, outcome)
    yield from _readmission_events(job, observed, outcome)
    yield from _name_events(observed)
    yield from _node_loss_events(observed, lost_nodes)
    yield from _preflight_events(observed, preflight)
    yield from _gpu_events(review)


def _outcome_events(observed: Observed, outcome: Outcome) -> Iterator[Event]:
    """None for the same thing again."""
    told = {condition["reason"] for condition in observed.status.get("conditions", ())}
    if observed.status.get("phase") == outcome.phase and outcome.reason in told:
        return
    if outcome.reason == NODE_LOST:
        return  # its own condition's event says more
    is_warning = outcome.phase in ("Failed", "CompletedWithErrors") or outcome.is_stuck
    yield Event(outcome.reason, outcome.message, is_warning)


def _readmission_events(job: InferenceJob, observed: Observed, outcome: Outcome) -> Iterator[Event]:
    """Told with the change of the child Job, thus once."""
    child = observed.job
    if child is None or outcome.is_final:
        return
    if (told := kueue.describe_readmission(job, child)) is not None:
        yield Event(kueue.READMISSION, told)


def _name_events(observed: Observed) -> Iterator[Event]:
    """Of a job that runs: of others the outcome tells. Once: the status has the words then."""
    if observed.job is None or observed.taken is None:
        return
    words = observed.taken.message
    if not any(words in one["message"] for one in observed.status.get("conditions", ())):
        yield Event(NAME_TAKEN, words, is_warning=True)


def _node_loss_events(observed: Observed, said: Condition | None) -> Iterator[Event]:
    """One for each change of what is said about lost nodes."""
    before = find_condition(observed.status)
    if said is None or (before and (before["reason"], before["message"]) == said[2:]):
        return
    yield Event(NODE_LOST if said.status else said.reason, said.message, said.status)


def _preflight_events(observed: Observed, said: Condition | None) -> Iterator[Event]:
    """One for each change of what is said about a machine, if it is bad."""
    if said is None or said.reason == preflight_condition.PASSED:
        return
    conditions = observed.status.get("conditions", ())
    known = next((one for one in conditions if one["type"] == said.type), None)
    if known is None or (known["reason"], known["message"]) != said[2:]:
        yield Event(said.reason, said.message, is_warning=True)


def _gpu_events(review: NodeReview) -> Iterator[Event]:
    """One for each node that is avoided from now on, or used again. Both are changes of the status,
    so that they are told once."""
    for one in review.fresh:
        yield Event(avoided_nodes.CONDITION, avoided_nodes.describe([one]), is_warning=True)
    for text in avoided_nodes.describe_repairs(review):
        yield Event(avoided_nodes.USED_AGAIN, text)


def build_event(event: Event, document: dict[str, Any], now: datetime) -> dict[str, Any]:
    """A core/v1 Event about the InferenceJob. Told twice of the same state, by an operator that
    was killed or by two, it has the same name."""
    metadata = document["metadata"]
    conditions = (document.get("status") or {}).get("conditions", ())
    told = [(c["type"], c["reason"], c["lastTransitionTime"]) for c in conditions]
    said = f"{metadata['uid']}{event.reason}{event.message}{told}"
    suffix = hashlib.sha256(said.encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name']}.{suffix}",
            "namespace": metadata["namespace"],
        },
        "involvedObject": {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "reason": event.reason,
        "message": event.message[:1024],
        "type": "Warning" if event.is_warning else "Normal",
        "source": {"component": names.FIELD_MANAGER},
        "reportingComponent": names.FIELD_MANAGER,
        "firstTimestamp": format_time(now),
        "lastTimestamp": format_time(now),
        "count": 1,
    }
