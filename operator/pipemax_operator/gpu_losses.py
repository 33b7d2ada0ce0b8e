"""Lost GPUs, node by node: which nodes a job's pods keep away from, and which are used again. Pure.

The status is the memory (decision 0012). ``avoidedNodes``: the nodes avoided now, each with what
the API showed of it since. ``gpuLosses``: how often and when a GPU was lost there, which stays when
a node is used again: a pod whose end was counted is not counted twice, and a node that loses a GPU
again and again stays avoided.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pipemax_operator.conditions import format_time, parse_time
from pipemax_operator.exit_codes import GPU_LOST
from pipemax_operator.observed import Observed, ObservedNode, ObservedPod

MAX_AVOIDED = 32
MAX_REMEMBERED = 64
"""Of nodes that nothing asks for any more; none of the others is forgotten for their number."""

MAX_STORED = 4096
"""All together, as the CRD bounds them: what is longer the API server would refuse."""

MAX_LOSSES = 3
"""After so many lost GPUs a node stays avoided, whatever the API shows of it."""

_MAX_MESSAGE_LENGTH = 1024
_EARLIEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class AvoidedNode:
    """A node that pods keep away from. ``message``: the worker's own words, with the GPU's UUID.

    num_losses    how often a GPU was lost there.
    boot_id       of the boot in which that was, as far as it was seen; empty: not seen yet.
    num_gpus      most that the node has had since (``status.capacity``); None: not seen yet.
    fewest_gpus   least that it has offered to pods since (``status.allocatable``), but for none at
                  all: so do healthy nodes while their kubelet or device plugin is started anew.
    """

    name: str
    message: str
    num_losses: int = 1
    boot_id: str = ""
    num_gpus: int | None = None
    fewest_gpus: int | None = None

    @property
    def stays(self) -> bool:
        """Whether only a person can say that the node is well."""
        return self.num_losses >= MAX_LOSSES


@dataclass(frozen=True)
class NodeLosses:
    """``last``: when the last pod that lost a GPU on the node ended; None: not known."""

    node: str
    count: int
    last: datetime | None = None

    def is_news(self, ended_at: datetime | None) -> bool:
        """Whether a pod that ended then has not been counted."""
        return ended_at is not None and (self.last is None or ended_at > self.last)


@dataclass(frozen=True)
class RepairedNode:
    """A node that is used again. ``reason``: what the API showed of it."""

    node: AvoidedNode
    reason: str


@dataclass(frozen=True)
class NodeReview:
    """``fresh``: those of ``avoided`` that were not avoided before."""

    avoided: tuple[AvoidedNode, ...] = ()
    fresh: tuple[AvoidedNode, ...] = ()
    repaired: tuple[RepairedNode, ...] = ()
    losses: tuple[NodeLosses, ...] = ()


def review_nodes(observed: Observed) -> NodeReview:
    """What pods' ends tell on top of what was known, less the nodes that are well again."""
    losses = _known_losses(observed.status)
    known = _known_nodes(observed.status, losses)
    before = dict(losses)
    found = _count_ends(observed.pods, known, losses)
    repaired = _find_repaired(observed, known.values())
    well = {one.node.name for one in repaired}
    seen = [_look(observed, one) for one in known.values() if one.name not in well]
    fresh = found[: MAX_AVOIDED - len(seen)]
    for one in found[len(fresh) :]:  # no room: it stays news until there is
        losses.pop(one.name)
        if one.name in before:
            losses[one.name] = before[one.name]
    avoided = (*seen, *fresh)
    return NodeReview(avoided, fresh, repaired, _remember(losses, avoided, observed.pods))


def find_avoided(observed: Observed) -> tuple[AvoidedNode, ...]:
    """Those that are known, then those that a pod's end tells of; each node once."""
    return review_nodes(observed).avoided


def avoided_as_status(avoided: Sequence[AvoidedNode]) -> list[dict[str, Any]]:
    """``status.avoidedNodes``."""
    return [_drop_unknown(_as_status(one)) for one in avoided]


def losses_as_status(losses: Sequence[NodeLosses]) -> list[dict[str, Any]]:
    """``status.gpuLosses``."""
    return [
        _drop_unknown(
            {"node": one.node, "count": one.count, "lastTime": one.last and format_time(one.last)}
        )
        for one in losses
    ]


# --- what is known


def _known_losses(status: Mapping[str, Any]) -> dict[str, NodeLosses]:
    """Older operators wrote no losses: each node of theirs had one."""
    found = {one["node"]: NodeLosses(one["node"], 1) for one in status.get("avoidedNodes", ())}
    for one in status.get("gpuLosses", ()):
        last = parse_time(one["lastTime"]) if one.get("lastTime") else None
        found[one["node"]] = NodeLosses(one["node"], one["count"], last)
    return found


def _known_nodes(
    status: Mapping[str, Any], losses: Mapping[str, NodeLosses]
) -> dict[str, AvoidedNode]:
    return {
        one["node"]: AvoidedNode(
            name=one["node"],
            message=one.get("message", ""),
            num_losses=losses[one["node"]].count,
            boot_id=one.get("bootID", ""),
            num_gpus=one.get("gpus"),
            fewest_gpus=one.get("fewestGpus"),
        )
        for one in status.get("avoidedNodes", ())
    }


def _as_status(one: AvoidedNode) -> dict[str, Any]:
    return {
        "node": one.name,
        "message": one.message,
        "bootID": one.boot_id or None,
        "gpus": one.num_gpus,
        "fewestGpus": one.fewest_gpus,
    }


def _drop_unknown(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _remember(
    losses: Mapping[str, NodeLosses], avoided: Sequence[AvoidedNode], pods: Sequence[ObservedPod]
) -> tuple[NodeLosses, ...]:
    """Of each node that is avoided, or that a pod is on: its end, if it was counted, would be news
    again, and one that runs may lose the next GPU there. Of the others, the last ones."""
    asked_for = {one.name for one in avoided} | {pod.node for pod in pods}
    by_time = sorted(losses.values(), key=lambda one: one.last or _EARLIEST, reverse=True)
    kept = [one for one in by_time if one.node in asked_for]
    rest = [one for one in by_time if one.node not in asked_for]
    kept += rest[: max(0, MAX_REMEMBERED - len(kept))]
    return tuple(sorted(kept[:MAX_STORED], key=lambda one: one.node))


# --- what pods tell


def _count_ends(
    pods: Sequence[ObservedPod],
    known: Mapping[str, AvoidedNode],
    losses: dict[str, NodeLosses],
) -> tuple[AvoidedNode, ...]:
    """The nodes to avoid from now on. ``losses`` is brought up to date; the ends of several pods
    that were on the node together are one loss."""
    fresh: dict[str, AvoidedNode] = {}
    for pod in sorted(pods, key=_ended_at):
        if not pod.node or pod.termination is None or pod.termination.exit_code != GPU_LOST:
            continue
        before, ended_at = losses.get(pod.node), pod.termination.finished_at
        if before is not None and not before.is_news(ended_at):
            continue
        count = 0 if before is None else before.count
        if pod.node not in known and pod.node not in fresh:
            count += 1
            message = pod.termination.message[:_MAX_MESSAGE_LENGTH]
            fresh[pod.node] = AvoidedNode(pod.node, message, count)
        losses[pod.node] = NodeLosses(pod.node, count, ended_at)
    return tuple(fresh.values())


def _ended_at(pod: ObservedPod) -> datetime:
    return (pod.termination and pod.termination.finished_at) or _EARLIEST


# --- what the nodes show


def _find_repaired(observed: Observed, known: Iterable[AvoidedNode]) -> tuple[RepairedNode, ...]:
    nodes = {node.name: node for node in observed.nodes or ()}
    judged = (
        (one, _why_well(one, nodes[one.name], observed.gpu_resource))
        for one in known
        if one.name in nodes and not one.stays
    )
    return tuple(RepairedNode(one, why) for one, why in judged if why is not None)


def _why_well(avoided: AvoidedNode, node: ObservedNode, resource: str) -> str | None:
    """Another boot that offers GPUs, or all GPUs after there were fewer. Being ready again says
    nothing: a network that was away shows the same. That the kubelet offers GPUs says that their
    device plugin has looked at them since the boot."""
    gpus = node.allocatable.get(resource, 0)
    if not node.is_ready or not gpus:
        return None
    if avoided.boot_id and node.boot_id and node.boot_id != avoided.boot_id:
        return f"it was started anew and offers {gpus} of {resource}"
    had, fewest = avoided.num_gpus, avoided.fewest_gpus
    if had is not None and fewest is not None and fewest < had <= gpus:
        return f"it offers all {gpus} of {resource} again, after {fewest}"
    return None


def _look(observed: Observed, avoided: AvoidedNode) -> AvoidedNode:
    """``avoided`` with what is seen of the node now."""
    node = next((one for one in observed.nodes or () if one.name == avoided.name), None)
    if node is None:
        return avoided
    capacity = node.capacity.get(observed.gpu_resource, 0)
    allocatable = node.allocatable.get(observed.gpu_resource, 0)
    offers = [n for n in (avoided.fewest_gpus, allocatable) if n]
    return replace(
        avoided,
        boot_id=avoided.boot_id or node.boot_id,
        num_gpus=max(capacity, avoided.num_gpus or 0),
        fewest_gpus=min(offers, default=None),
    )
