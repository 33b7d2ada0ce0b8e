"""How a job's pods keep away from nodes with a lost GPU, and what is said about it. Pure.

A Job's pod template cannot be changed once pods run. So each pod that uses GPUs is born with a
scheduling gate; it is let go with the nodes to avoid in its affinity (decision 0009). Which nodes
those are is ``gpu_losses``' to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipemax_operator import names
from pipemax_operator.conditions import Condition
from pipemax_operator.gpu_losses import AvoidedNode, NodeReview
from pipemax_operator.observed import Observed, ObservedPod

CONDITION = "GpuLost"
USED_AGAIN = "NodeUsedAgain"
"""Reason of the condition once no node is avoided any more, and of the event about each node."""

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_NODE_NAME = "metadata.name"


@dataclass(frozen=True)
class PodRelease:
    """A gated pod that may be scheduled: ``patch`` is a strategic merge patch."""

    pod: str
    patch: dict[str, Any]


def derive_condition(review: NodeReview, status: Mapping[str, Any]) -> Condition | None:
    """True while a node is avoided, False once none is any more; None where none ever was."""
    if review.avoided:
        text = f"{describe(review.avoided)}; pods go to other nodes"
        return Condition(CONDITION, True, CONDITION, text)
    if any(one["type"] == CONDITION for one in status.get("conditions", ())):
        return Condition(CONDITION, False, USED_AGAIN, "no node is avoided any more")
    return None


def describe(avoided: Sequence[AvoidedNode]) -> str:
    return "; ".join(f"node {one.name} is avoided{_until(one)}: {one.message}" for one in avoided)


def _until(avoided: AvoidedNode) -> str:
    """Also what tells one loss of a GPU from the next: events of the same words are one."""
    times = f" (GPUs lost {avoided.num_losses} times)" if avoided.num_losses > 1 else ""
    return f" until it is taken from status.avoidedNodes{times}" if avoided.stays else times


def describe_repairs(review: NodeReview) -> Iterator[str]:
    """A sentence for each node that is used again."""
    for one in review.repaired:
        was = f"lost GPUs so far: {one.node.num_losses}; the last: {one.node.message}"
        yield f"node {one.node.name} is used again: {one.reason} ({was})"


def build_releases(observed: Observed, avoided: Sequence[AvoidedNode]) -> tuple[PodRelease, ...]:
    """For each pod that waits at our gate. Other controllers' gates stay shut."""
    return tuple(
        PodRelease(pod.name, _build_patch(pod, avoided))
        for pod in observed.pods
        if names.PLACEMENT_GATE in pod.gates and not pod.is_terminating
    )


def find_outdated(observed: Observed, review: NodeReview) -> tuple[tuple[ObservedPod, str], ...]:
    """Pods that find no node while they keep away from one that is used again, each with a reason
    to end it: what a pod keeps away from cannot be changed after its gate was opened, and a new pod
    knows better. What others keep a pod away from is theirs: only nodes that lost a GPU count."""
    used_again = {one.node for one in review.losses} - {one.name for one in review.avoided}
    found = (
        (pod, sorted(_nodes_kept_away_from(pod.affinity) & used_again))
        for pod in observed.pods
        if _finds_no_node(pod)
    )
    return tuple(
        (pod, f"it keeps away from node {', '.join(nodes)}, which is used again")
        for pod, nodes in found
        if nodes
    )


def _finds_no_node(pod: ObservedPod) -> bool:
    is_told = pod.waiting is not None and pod.waiting[0] == "Unschedulable"
    return is_told and pod.phase == "Pending" and not pod.node and not pod.is_terminating


def _build_patch(pod: ObservedPod, avoided: Sequence[AvoidedNode]) -> dict[str, Any]:
    spec: dict[str, Any] = {"schedulingGates": [{"$patch": "delete", "name": names.PLACEMENT_GATE}]}
    if avoided:
        spec["affinity"] = _avoid(pod.affinity, [one.name for one in avoided])
    return {"metadata": {"uid": pod.uid}, "spec": spec}


def _avoid(affinity: Mapping[str, Any], nodes: Sequence[str]) -> dict[str, Any]:
    """Terms are alternatives, so each of them gets the nodes. The API server allows no more than
    that: requirements may be added to the terms of a gated pod, and nothing taken away."""
    fields = [{"key": _NODE_NAME, "operator": "NotIn", "values": [node]} for node in sorted(nodes)]
    terms = _terms(affinity) or [{}]
    terms = [{**term, "matchFields": [*term.get("matchFields", ()), *fields]} for term in terms]
    required = {_REQUIRED: {"nodeSelectorTerms": terms}}
    return {**affinity, "nodeAffinity": {**(affinity.get("nodeAffinity") or {}), **required}}


def _nodes_kept_away_from(affinity: Mapping[str, Any]) -> set[str]:
    return {
        node
        for term in _terms(affinity)
        for field in term.get("matchFields", ())
        if (field["key"], field["operator"]) == (_NODE_NAME, "NotIn")
        for node in field["values"]
    }


def _terms(affinity: Mapping[str, Any]) -> list[dict[str, Any]]:
    required = (affinity.get("nodeAffinity") or {}).get(_REQUIRED) or {}
    terms: list[dict[str, Any]] = required.get("nodeSelectorTerms") or []
    return terms
