"""The status of an InferenceJob, written from what was observed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from pipemax_operator import conditions
from pipemax_operator.conditions import Condition, format_time
from pipemax_operator.observed import Observed, ObservedPod, WorkerProgress
from pipemax_operator.outcome import Outcome

MAX_FAILING_SHOWN = 10
_SWAP_FIELDS = {
    "host-device": "hostToDeviceBytes",
    "device-host": "deviceToHostBytes",
    "host-nvme": "hostToNvmeBytes",
    "nvme-host": "nvmeToHostBytes",
}


def build_status(observed: Observed, outcome: Outcome, now: datetime) -> dict[str, Any]:
    """The whole status; equal to ``observed.status`` if nothing has changed but time."""
    before = observed.status
    status: dict[str, Any] = {
        "phase": outcome.phase,
        "observedGeneration": observed.generation,
        "conditions": conditions.merge_conditions(
            before.get("conditions", ()), derive_conditions(outcome), observed.generation, now
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
    if swap := _swap(observed.progress) or before.get("swap"):
        status["swap"] = swap
    return status


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
    child = observed.job
    return format_time(child.start_time) if child and child.start_time else None


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
    counts = next(
        (p.termination.counts for p in observed.pods if p.termination and p.termination.counts),
        None,
    )
    before: dict[str, Any] | None = observed.status.get("progress")
    if outcome.is_final and counts:
        return _final_progress(counts, before, now)
    if not observed.progress:
        return before
    return _running_progress(observed.progress, before, now)


def _final_progress(
    counts: dict[str, int], before: dict[str, Any] | None, now: datetime
) -> dict[str, Any]:
    completed, failed = counts.get("completed", 0), counts.get("failed", 0)
    progress = {
        "percent": "100%",
        "summary": f"{completed + failed}/{completed + failed}",
        "totalRequests": completed + failed,
        "completed": completed,
        "failed": failed,
        "promptTokens": counts.get("promptTokens", 0),
        "generatedTokens": counts.get("generatedTokens", 0),
    }
    if before and all(before.get(name) == value for name, value in progress.items()):
        return before
    return {**progress, "lastUpdateTime": format_time(now)}


def _running_progress(
    workers: Sequence[WorkerProgress], before: dict[str, Any] | None, now: datetime
) -> dict[str, Any]:
    """Every worker counts the whole job's records as it found them and its own: the one that knows
    most speaks for the job; rates add up."""
    best = max(workers, key=lambda worker: worker.num_done)
    fraction = max(worker.fraction_done for worker in workers)
    total = round(best.num_done / fraction) if fraction else 0
    remaining = [w.remaining_seconds for w in workers if w.remaining_seconds is not None]
    progress: dict[str, Any] = {
        "percent": f"{int(100 * fraction)}%",
        "summary": f"{best.num_done}/{'~' if fraction < 1 else ''}{max(total, best.num_done)}",
        "totalRequests": max(total, best.num_done),
        "completed": best.num_done - best.num_failed,
        "failed": best.num_failed,
        "promptTokens": sum(worker.prompt_tokens for worker in workers),
        "generatedTokens": sum(worker.generated_tokens for worker in workers),
        "tokensPerSecond": round(sum(worker.tokens_per_second for worker in workers)),
    }
    if remaining:
        end = now + timedelta(seconds=max(remaining) / len(workers))
        progress["estimatedCompletionTime"] = format_time(end)
    same = before and all(before.get(k) == v for k, v in progress.items() if "Time" not in k)
    return before if same and before else {**progress, "lastUpdateTime": format_time(now)}


def _swap(workers: Sequence[WorkerProgress]) -> dict[str, int]:
    totals = dict.fromkeys(_SWAP_FIELDS.values(), 0)
    for worker in workers:
        for link, num_bytes in worker.swap_bytes.items():
            if link in _SWAP_FIELDS:
                totals[_SWAP_FIELDS[link]] += num_bytes
    return totals if any(totals.values()) else {}
