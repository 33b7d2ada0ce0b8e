"""How a worker ended: its own termination message, else what the kubelet says. Pure."""

from __future__ import annotations

import json
from typing import Any

from pipemax_operator.conditions import parse_time
from pipemax_operator.energy import parse_energy
from pipemax_operator.exit_codes import NODE_RESTARTED
from pipemax_operator.observed import Termination

OOM_KILLED = "OOMKilled"
NODE_RESTART = "NodeRestarted"

_OOM_MESSAGE = (
    "the worker reached its memory limit and was killed; lower spec.kvCache.host, or raise the "
    "worker's memory besides it (the chart's worker.memoryOverhead)"
)

_NODE_RESTART_MESSAGE = (
    "the node, or its container runtime, was restarted while the worker ran; this is not counted "
    "against it"
)


def find_termination(pod_status: dict[str, Any]) -> Termination | None:
    """Of the worker's container, or of one before it that has failed; None while none has ended."""
    ends = [
        (kind, ended)
        for kind in ("containerStatuses", "initContainerStatuses")
        for container in pod_status.get(kind) or ()
        if (ended := (container.get("state") or {}).get("terminated"))
    ]
    for kind, ended in ends:
        if kind == "containerStatuses" or ended.get("exitCode"):
            return _parse(ended)
    return None


def _parse(ended: dict[str, Any]) -> Termination:
    """The worker writes JSON. One that was killed has written none: then the kubelet's word is
    taken, and where the kernel killed it for its memory, what helps is added; where it knows
    nothing, what that stands for."""
    said = _read_message(ended.get("message") or "")
    if said is None:
        said = {"reason": ended.get("reason", ""), "message": ended.get("message", "")}
    reason, message = str(said.get("reason") or ""), str(said.get("message") or "")
    if reason == OOM_KILLED and not message:
        message = _OOM_MESSAGE
    if ended.get("exitCode") == NODE_RESTARTED and reason in ("", "Unknown") and not message:
        reason, message = NODE_RESTART, _NODE_RESTART_MESSAGE
    finished = ended.get("finishedAt")
    return Termination(
        exit_code=ended.get("exitCode", 0),
        reason=reason,
        message=message,
        finished_at=parse_time(finished) if finished else None,
        counts=said.get("counts") or {},
        energy=parse_energy(said.get("energy")),
    )


def _read_message(text: str) -> dict[str, Any] | None:
    try:
        said = json.loads(text)
    except json.JSONDecodeError:
        return None
    return said if isinstance(said, dict) else None
