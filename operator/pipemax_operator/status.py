"""The status of an InferenceJob, written from what was observed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pipemax_operator import conditions
from pipemax_operator.conditions import Condition, format_time
from pipemax_operator.energy import energy_as_status
from pipemax_operator.gpu_losses import avoided_as_status, losses_as_status, review_nodes
from pipemax_operator.observed import Observed, ObservedPod, WorkerProgress
from pipemax_operator.outcome import Outcome
from pipemax_operator.progress import final_progress, running_progress, without_rate

MAX_FAILING_SHOWN = 10
_SWAP_FIELDS = {
    "host-device": "hostToDeviceBytes",
    "device-host": "deviceToHostBytes",
    "host-nvme": "hostToNvmeBytes",
    "nvme-host": "nvmeToHostBytes",
}


def build_status(
    observed: Observed, outcome: Outcome, now: datetime, further: Sequence[Condition] = ()
) -> dict[str, Any]:
    """The whole status; equal to ``observed.status`` if nothing has changed but time. ``further``:
    conditions that are no part of the outcome."""
    before = observed.status
    said = (*derive_conditions(outcome), *further)
    status: dict[str, Any] = {
        "phase": outcome.phase,
        "observedGeneration": _acted_on(observed),
        "conditions": conditions.merge_conditions(
            before.get("conditions", ()), said, observed.generation, now
        ),
    }
    status["attempt"] = max(before.get("attempt", 0), _num_attempts(observed))
    start = before.get("startTime") or _start_time(observed)
    if start:
        status["startTime"] = start
    if outcome.is_final:
        status["completionTime"] = before.get("completionTime") or format_time(now)
    if shards := _shards(observed):
        status["shards"] = shards
    elif "shards" in before:
        status["shards"] = before["shards"]
    progress = _progress(observed, outcome, now)
    if progress is not None:
        status["progress"] = progress
    if energy := _energy(observed, outcome, has_moved=progress != before.get("progress")):
        status["energy"] = energy
    status |= _gpu_losses(observed)
    if swap := _swap(observed.progress) or before.get("swap"):
        status["swap"] = swap
    return status


def _acted_on(observed: Observed) -> int:
    """The spec's generation; the one before while its job file cannot be written."""
    before = observed.status.get("observedGeneration", observed.generation)
    is_held_up = observed.job is not None and observed.taken is not None
    return int(before) if is_held_up else observed.generation


def derive_conditions(outcome: Outcome) -> Sequence[Condition]:
    """All four, always: nobody has to guess what a missing one means."""
    is_complete = outcome.phase in ("Complete", "CompletedWithErrors")
    values = (
        (conditions.SUSPENDED, outcome.phase == "Suspended"),
        (conditions.PROGRESSING, outcome.phase == "Running"),
        (conditions.COMPLETE, is_complete),
        (conditions.FAILED, outcome.phase == "Failed"),
    )
    return [Condition(kind, value, outcome.reason, outcome.message) for kind, value in values]


def _num_attempts(observed: Observed) -> int:
    child = observed.job
    return 0 if child is None else child.active + child.succeeded + child.failed


def _start_time(observed: Observed) -> str | None:
    """Of the first pod that ran. The child Job starts earlier: without a queue at once, however
    long its pods wait for a node."""
    child = observed.job
    times = [pod.started_at for pod in observed.pods if pod.phase != "Pending" and pod.started_at]
    if not times and child and child.start_time and child.succeeded + child.failed:
        times = [child.start_time]  # of its pods, none is left
    return format_time(min(times)) if times else None


def _shards(observed: Observed) -> dict[str, Any] | None:
    child = observed.job
    if child is None:
        return None
    shards: dict[str, Any] = {
        "active": child.active,
        "ready": child.ready,
        "succeeded": child.succeeded,
        "failed": child.num_failed_indexes,
    }
    failing = [_failing(pod) for pod in observed.pods if pod.termination or pod.waiting]
    if shown := [one for one in failing if one][:MAX_FAILING_SHOWN]:
        shards["failing"] = shown
    return shards


def _failing(pod: ObservedPod) -> dict[str, Any] | None:
    if pod.termination is not None and pod.termination.exit_code:
        reason = pod.termination.reason or f"ExitCode{pod.termination.exit_code}"
        message = pod.termination.message
    elif pod.waiting is not None and pod.termination is None:
        reason, message = pod.waiting
    else:
        return None
    return {
        "index": pod.index,
        "pod": pod.name,
        "node": pod.node,
        "reason": reason[:256],
        "message": message[:4096],
    }


def _progress(observed: Observed, outcome: Outcome, now: datetime) -> dict[str, Any] | None:
    """Of the final counts, else of the workers that answer; else what was known before."""
    ended = [pod.termination for pod in observed.pods if pod.termination]
    counts = next((one.counts for one in ended if one.counts and not one.exit_code), None)
    before: dict[str, Any] | None = observed.status.get("progress")
    if outcome.is_final and counts:
        return final_progress(counts, before, now)
    if outcome.phase != "Running":
        return without_rate(before)
    return running_progress(observed.progress, before, now)


def _energy(observed: Observed, outcome: Outcome, has_moved: bool) -> dict[str, Any] | None:
    """Time alone is no reason to write a status: it goes along with a progress that has moved."""
    before: dict[str, Any] | None = observed.status.get("energy")
    if not (has_moved or outcome.is_final):
        return before
    ended = (pod.termination.energy for pod in observed.pods if pod.termination)
    running = (worker.energy for worker in observed.progress)
    return energy_as_status((*ended, *running), before)


def _gpu_losses(observed: Observed) -> dict[str, Any]:
    """A list that was once written is written on, empty too: whoever has edited it by hand owns it
    then, and what we left out would stay as it is."""
    review = review_nodes(observed)
    lists = {
        "avoidedNodes": avoided_as_status(review.avoided),
        "gpuLosses": losses_as_status(review.losses),
    }
    return {name: value for name, value in lists.items() if value or name in observed.status}


def _swap(workers: Sequence[WorkerProgress]) -> dict[str, int]:
    totals = dict.fromkeys(_SWAP_FIELDS.values(), 0)
    for worker in workers:
        for link, num_bytes in worker.swap_bytes.items():
            if link in _SWAP_FIELDS:
                totals[_SWAP_FIELDS[link]] += num_bytes
    return totals if any(totals.values()) else {}
