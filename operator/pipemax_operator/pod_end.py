"""The end of a pod that no kubelet tells of, or that has none yet. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pipemax_operator.conditions import format_time
from pipemax_operator.observed import ObservedPod


def build_end(pod: ObservedPod, reason: str, message: str, now: datetime) -> dict[str, Any]:
    """The status that says that the pod has ended, as the pod garbage collector does for nodes that
    are deleted: only then the Job controller makes another pod, and by DisruptionTarget it counts
    no failure. The resource version: not if anybody else has spoken."""
    disruption = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": format_time(now),
    }
    status = {"phase": "Failed", "reason": reason, "message": message}
    return {
        "metadata": {"uid": pod.uid, "resourceVersion": pod.resource_version},
        "status": {**status, "conditions": [disruption]},
    }
