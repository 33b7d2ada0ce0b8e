"""What only events tell: why a kubelet cannot make a pod's containers. Pure.

A volume that cannot be mounted leaves a pod in ``ContainerCreating`` for ever, and no word of it in
its status. The kubelet repeats itself every few minutes, so the last event is still true.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from pipemax_operator.observed import ObservedPod

Document = dict[str, Any]

MAX_PODS = 3
"""So many pods of a job are asked for: they wait for the same thing."""

TOLD_BY_EVENTS = frozenset(
    {
        "FailedMount",
        "FailedAttachVolume",
        "FailedMapVolume",
        "FailedCreatePodSandBox",
        "FailedCreatePodContainer",
    }
)
_PATIENCE = timedelta(seconds=10)


def is_silent(pod: ObservedPod, now: datetime) -> bool:
    """Whether a pod has a node, has not started there for a while, and its status says no why."""
    return (
        pod.phase == "Pending"
        and bool(pod.node)
        and pod.waiting is None
        and not pod.is_terminating
        and pod.since is not None
        and now - pod.since > _PATIENCE
    )


def add_events(
    pods: Sequence[ObservedPod], events: Mapping[str, Sequence[Document]]
) -> tuple[ObservedPod, ...]:
    """``pods`` with what the last such event about each says. ``events``: by the pod's UID."""
    return tuple(
        pod
        if pod.waiting or not (said := _last(events.get(pod.uid, ())))
        else replace(pod, waiting=said)
        for pod in pods
    )


def _last(events: Sequence[Document]) -> tuple[str, str] | None:
    told = [event for event in events if event.get("reason") in TOLD_BY_EVENTS]
    if not told:
        return None
    event = max(told, key=_time)
    return event["reason"], event.get("message", "")


def _time(event: Document) -> str:
    """As text, which sorts like the time: Kubernetes writes all of them in UTC."""
    return str(event.get("lastTimestamp") or event.get("eventTime") or event.get("firstTimestamp"))
