"""What the user is told about lost nodes: the condition ``NodeLost``, and its events. Pure.

Absent until a node is lost for the first time. Its message does not change while nothing changes:
so that each change of it is an event.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipemax_worker.job import InferenceJob

from pipemax_operator.conditions import Condition
from pipemax_operator.node_loss import LostPod, is_widespread
from pipemax_operator.observed import Observed

NODE_LOST = "NodeLost"
WORKERS_REPLACED = "WorkersReplaced"
_MAX_SHOWN = 3


def derive_condition(
    job: InferenceJob,
    observed: Observed,
    lost: Sequence[LostPod],
    replaced: Sequence[LostPod],
    is_final: bool,
) -> Condition | None:
    """None: as it is. ``replaced``: those of ``lost`` that are replaced right now."""
    before = find_condition(observed.status)
    left = [one for one in lost if one not in replaced]
    if left and not is_final:
        reason, prospect = _prospect(job, observed)
        return Condition(NODE_LOST, True, reason, f"{describe(left)}; {prospect}")
    if replaced:
        text = f"{describe(replaced)}; another one takes its place"
        return Condition(NODE_LOST, False, WORKERS_REPLACED, text)
    if before is None or before["status"] != "True":
        return None
    if left:
        text = f"{describe(left)}; the job has ended without it, the pod goes when the node is back"
        return Condition(NODE_LOST, False, "JobEnded", text)
    return Condition(NODE_LOST, False, "NodesAnswer", "no worker is on a lost node any more")


def describe(lost: Sequence[LostPod]) -> str:
    """The pods, their nodes and the time, the first ones by name."""
    texts = [f"pod {one.pod.name} is lost: {one.reason}" for one in lost[:_MAX_SHOWN]]
    if len(lost) > _MAX_SHOWN:
        texts.append(f"and {len(lost) - _MAX_SHOWN} more")
    return ", ".join(texts)


def find_condition(status: dict[str, Any]) -> dict[str, Any] | None:
    """What an InferenceJob's status says about lost nodes."""
    said = (one for one in status.get("conditions", ()) if one["type"] == NODE_LOST)
    return next(said, None)


def was_replaced(status: dict[str, Any]) -> bool:
    """Whether a lost worker of the job was replaced the last time that one was lost."""
    said = find_condition(status)
    return said is not None and said["reason"] == WORKERS_REPLACED


def _prospect(job: InferenceJob, observed: Observed) -> tuple[str, str]:
    """Reason, and what will become of it."""
    if observed.job is not None and observed.job.suspended:
        return "JobSuspended", "nothing is replaced while the job is suspended"
    if not job.spec.replaces_lost_workers:
        why = "spec.nodeLoss.policy" if job.spec.node_loss.policy else "the output is on that node"
        text = f"it goes on when the node is back, or elsewhere once the node is deleted ({why})"
        return "WaitingForNode", text
    if is_widespread(observed.nodes):
        return "ClusterUnreachable", "nothing is replaced while most nodes do not answer"
    after = job.spec.model_dump(mode="json")["node_loss"]["replace_after"]
    return "ReplacementPending", f"it is replaced when the node has been away for {after}"
