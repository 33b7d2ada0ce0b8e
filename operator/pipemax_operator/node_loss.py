"""Workers whose node does not answer any more: which they are, and which are to be replaced. Pure.

On bare metal nobody confirms the end of such a pod, so the Job controller never makes another one.
``node_loss_condition`` says it to the user. What is safe about replacing: the records have one
writer each whatever a zombie does (put-if-absent), so being wrong here costs work, never a record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pipemax_worker.job import InferenceJob

from pipemax_operator import pod_end
from pipemax_operator.conditions import format_time
from pipemax_operator.observed import Observed, ObservedNode, ObservedPod

# A look at a cluster that has just come back, or by an operator that has just started, is none.
CONFIRMATION_SECONDS = 30.0
# A worker that has never been ready may be loading its model; after that long its node is asked.
LOADING_PATIENCE = timedelta(seconds=60)
# From then on Kubernetes' own node controller takes it for its own network's fault, too.
_MIN_WIDESPREAD_NODES = 3
_WIDESPREAD_SHARE = 0.55


@dataclass(frozen=True)
class LostPod:
    """A worker on a node that does not answer. ``since``: when the cluster noticed; None for a node
    whose object is gone: the pod garbage collector ends that one."""

    pod: ObservedPod
    since: datetime | None

    @property
    def reason(self) -> str:
        """What became of the node."""
        if self.since is None:
            return f"node {self.pod.node} was deleted"
        return f"node {self.pod.node} has not answered since {format_time(self.since)}"


def is_suspect(pod: ObservedPod, now: datetime) -> bool:
    """Whether it is worth asking about the pod's node: it should have ended, or be ready."""
    if not pod.node or pod.phase not in ("Pending", "Running"):
        return False
    if pod.is_terminating or pod.unready_since is not None:
        return True
    has_loaded_for_long = pod.since is not None and now - pod.since > LOADING_PATIENCE
    return pod.phase == "Running" and not pod.is_ready and has_loaded_for_long


def find_lost_pods(observed: Observed, now: datetime) -> tuple[LostPod, ...]:
    """By the nodes' own state; without the right to see nodes, by what Kubernetes did to the pods:
    it gave them up, or marked them as not ready though nobody had asked them to end.

    A pod that does not end on a node that answers is no lost one: its kubelet is at it.
    """
    suspects = [pod for pod in observed.pods if is_suspect(pod, now)]
    if observed.nodes is None:
        times = ((pod, _told_by_pod(pod)) for pod in suspects)
        return tuple(LostPod(pod, since) for pod, since in times if since)
    nodes = {node.name: node for node in observed.nodes}
    found = ((pod, nodes.get(pod.node)) for pod in suspects)
    return tuple(
        LostPod(pod, (node.since or pod.since or now) if node else None)
        for pod, node in found
        if node is None or not node.is_ready
    )


def find_replaceable(
    job: InferenceJob, observed: Observed, lost: Sequence[LostPod], now: datetime
) -> tuple[LostPod, ...]:
    """Those whose time is over. None while the job is suspended, or while most nodes are away: then
    it is more likely the cluster's network, and there is no room elsewhere. An operator that does
    not see the nodes leaves this judgement to Kubernetes, which gives up no pod then."""
    is_held = observed.job is None or observed.job.suspended or is_widespread(observed.nodes)
    if is_held or not job.spec.replaces_lost_workers:
        return ()
    seconds = job.spec.node_loss.replace_after
    return tuple(
        one
        for one in lost
        if (observed.nodes is not None or one.pod.given_up_at is not None)
        and one.since is not None
        and (now - one.since).total_seconds() >= seconds
        and observed.watched_seconds.get(one.pod.uid, 0.0) >= min(seconds, CONFIRMATION_SECONDS)
    )


def is_widespread(nodes: Sequence[ObservedNode] | None) -> bool:
    """Whether so many nodes are away that the fault is hardly theirs."""
    if not nodes:
        return False
    num_away = sum(not node.is_ready for node in nodes)
    is_most = num_away >= _MIN_WIDESPREAD_NODES and num_away / len(nodes) >= _WIDESPREAD_SHARE
    return num_away == len(nodes) or is_most


def build_end(lost: LostPod, now: datetime) -> dict[str, Any]:
    """The status that says for a lost kubelet that its pod has ended."""
    return pod_end.build_end(lost.pod, "NodeLost", lost.reason, now)


def _told_by_pod(pod: ObservedPod) -> datetime | None:
    if pod.given_up_at is None and pod.is_terminating:
        return None  # somebody wants it to end, and its kubelet may be at it
    return pod.unready_since or pod.given_up_at
