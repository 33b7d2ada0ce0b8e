"""What a job's status says when RBAC does not let the operator do its work. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pipemax_operator.conditions import PROGRESSING, Condition, merge_conditions
from pipemax_operator.told_events import Event

REASON = "Forbidden"


def build_refused_status(
    document: dict[str, Any], message: str, now: datetime
) -> tuple[dict[str, Any], Event] | None:
    """Status and event of an InferenceJob for which ``message``, the API server's, stands in the
    way; None if its status says so already."""
    before = document.get("status") or {}
    said = f"the operator lacks a right, see the chart's templates/rbac.yaml: {message}"
    known = next((c for c in before.get("conditions", ()) if c["type"] == PROGRESSING), None)
    if known is not None and (known["reason"], known["message"]) == (REASON, said):
        return None
    generation = document["metadata"]["generation"]
    wanted = [Condition(PROGRESSING, False, REASON, said)]
    merged = merge_conditions(before.get("conditions", ()), wanted, generation, now)
    status = {"phase": "Pending", **before, "conditions": merged}
    return status, Event(REASON, said, is_warning=True)
