"""Nodes that a job's pods keep away from, because a GPU of theirs has failed. Pure.

A Job's pod template cannot be changed once pods run. So each pod that uses GPUs is born with a
scheduling gate; it is let go with the nodes to avoid in its affinity (decision 0009). What was
learned is kept in the status: pods that told of it may be gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipemax_operator import names
from pipemax_operator.conditions import Condition
from pipemax_operator.exit_codes import GPU_LOST
from pipemax_operator.observed import Observed, ObservedPod

CONDITION = "GpuLost"
MAX_AVOIDED = 32
_MAX_MESSAGE_LENGTH = 1024


@dataclass(frozen=True)
class AvoidedNode:
    """``message``: the worker's own words, with the GPU's UUID."""

    name: str
    message: str


@dataclass(frozen=True)
class PodRelease:
    """A gated pod that may be scheduled: ``patch`` is a strategic merge patch."""

    pod: str
    patch: dict[str, Any]


def find_avoided(observed: Observed) -> tuple[AvoidedNode, ...]:
    """Those that are known, then those that a pod's end tells of; each node once."""
    known = [
        AvoidedNode(one["node"], one["message"]) for one in observed.status.get("avoidedNodes", ())
    ]
    told = [
        AvoidedNode(pod.node, pod.termination.message[:_MAX_MESSAGE_LENGTH])
        for pod in observed.pods
        if pod.node and pod.termination is not None and pod.termination.exit_code == GPU_LOST
    ]
    by_name: dict[str, AvoidedNode] = {}
    for one in (*known, *told):
        by_name.setdefault(one.name, one)
    return tuple(by_name.values())[:MAX_AVOIDED]


def avoided_as_status(avoided: Sequence[AvoidedNode]) -> list[dict[str, str]]:
    """``status.avoidedNodes``."""
    return [{"node": one.name, "message": one.message} for one in avoided]


def derive_condition(avoided: Sequence[AvoidedNode]) -> Condition | None:
    """True from the first lost GPU on; None while there is none."""
    if not avoided:
        return None
    return Condition(CONDITION, True, CONDITION, f"{describe(avoided)}; pods go to other nodes")


def describe(avoided: Sequence[AvoidedNode]) -> str:
    return "; ".join(f"node {one.name} is avoided: {one.message}" for one in avoided)


def build_releases(observed: Observed, avoided: Sequence[AvoidedNode]) -> tuple[PodRelease, ...]:
    """For each pod that waits at our gate. Other controllers' gates stay shut."""
    return tuple(
        PodRelease(pod.name, _build_patch(pod, avoided))
        for pod in observed.pods
        if names.PLACEMENT_GATE in pod.gates and not pod.is_terminating
    )


def _build_patch(pod: ObservedPod, avoided: Sequence[AvoidedNode]) -> dict[str, Any]:
    spec: dict[str, Any] = {"schedulingGates": [{"$patch": "delete", "name": names.PLACEMENT_GATE}]}
    if avoided:
        spec["affinity"] = _avoid(pod.affinity, [one.name for one in avoided])
    return {"metadata": {"uid": pod.uid}, "spec": spec}


def _avoid(affinity: Mapping[str, Any], nodes: Sequence[str]) -> dict[str, Any]:
    """Terms are alternatives, so each of them gets the nodes. The API server allows no more than
    that: requirements may be added to the terms of a gated pod, and nothing taken away."""
    fields = [
        {"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in sorted(nodes)
    ]
    node_affinity = affinity.get("nodeAffinity") or {}
    kind = "requiredDuringSchedulingIgnoredDuringExecution"
    terms = (node_affinity.get(kind) or {}).get("nodeSelectorTerms") or [{}]
    terms = [{**term, "matchFields": [*term.get("matchFields", ()), *fields]} for term in terms]
    required = {kind: {"nodeSelectorTerms": terms}}
    return {**affinity, "nodeAffinity": {**node_affinity, **required}}
