"""Conditions as batch/v1 has them: kept over time, final ones once and for all. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

SUSPENDED, PROGRESSING, COMPLETE, FAILED = "Suspended", "Progressing", "Complete", "Failed"
FINAL = (COMPLETE, FAILED)
MAX_MESSAGE_LENGTH = 4096


class Condition(NamedTuple):
    """What is to be said now; the time is added by :func:`merge_conditions`."""

    type: str
    status: bool
    reason: str
    message: str


def merge_conditions(
    before: Sequence[dict[str, Any]],
    wanted: Sequence[Condition],
    generation: int,
    now: datetime,
) -> list[dict[str, Any]]:
    """``wanted`` over what was said ``before``; ``lastTransitionTime`` moves with the status alone.

    A condition that nobody speaks of any more stays as it was.
    """
    merged = {condition["type"]: dict(condition) for condition in before}
    for one in wanted:
        old = merged.get(one.type)
        status = "True" if one.status else "False"
        changed = old is None or old["status"] != status
        merged[one.type] = {
            "type": one.type,
            "status": status,
            "observedGeneration": generation,
            "lastTransitionTime": format_time(now)
            if changed or old is None
            else old["lastTransitionTime"],
            "reason": one.reason,
            "message": one.message[:MAX_MESSAGE_LENGTH],
        }
    return list(merged.values())


def final_condition(conditions: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Complete or Failed, if one of them is True."""
    return next((c for c in conditions if c["type"] in FINAL and c["status"] == "True"), None)


def format_time(moment: datetime) -> str:
    """As Kubernetes writes times: UTC, whole seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
