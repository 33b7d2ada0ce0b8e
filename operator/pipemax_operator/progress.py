"""How far a job is, from what its workers say on ``/progress`` and from their last words. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pipemax_operator.conditions import format_time
from pipemax_operator.energy import EnergyUsed, parse_energy

Document = dict[str, Any]

_RATE_FIELDS = ("tokensPerSecond", "estimatedCompletionTime", "remaining")
_CLOCK_FIELDS = ("estimatedCompletionTime", "remaining")
"""Of two that differ in nothing else, the earlier one is as good."""


@dataclass(frozen=True)
class RangeTotals:
    """Requests and bytes of some ranges of the input; ``read`` includes what is not done yet."""

    done: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    bytes_done: int = 0
    read: int = 0
    bytes_read: int = 0

    def __add__(self, other: RangeTotals) -> RangeTotals:
        return RangeTotals(
            self.done + other.done,
            self.failed + other.failed,
            self.prompt_tokens + other.prompt_tokens,
            self.generated_tokens + other.generated_tokens,
            self.bytes_done + other.bytes_done,
            self.read + other.read,
            self.bytes_read + other.bytes_read,
        )

    def estimate_total(self, input_bytes: int) -> int:
        """All requests of the input, whose unread bytes are taken to be like the read ones."""
        if not self.read or not self.bytes_read:
            return self.done
        return max(self.done, -(-self.read * input_bytes // self.bytes_read))


@dataclass(frozen=True)
class Finding:
    """What a worker has found out about its machine; ``severity``: ok, warning or fatal."""

    check: str
    severity: str
    message: str
    remedy: str = ""

    def describe(self) -> str:
        """One sentence, with what helps."""
        return f"{self.check}: {self.message}" + (f"; {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class WorkerProgress:
    """One worker's ``/progress``, as far as the status needs it.

    closed  the ranges that are done by whichever worker, as far as this one knows.
    open    those that it has in hand.
    ledger_mark  the same for workers that see the same output; empty where nothing is to be proven.
    """

    pod: str
    input_bytes: int = 0
    closed: RangeTotals = field(default_factory=RangeTotals)
    open: RangeTotals = field(default_factory=RangeTotals)
    tokens_per_second: float = 0.0
    remaining_seconds: float | None = None
    swap_bytes: dict[str, int] = field(default_factory=dict)
    preflight: tuple[Finding, ...] = ()
    energy: EnergyUsed = field(default_factory=EnergyUsed)
    ledger_mark: str = ""

    @property
    def bytes_per_second(self) -> float | None:
        """Its own rate, from the time that it would need for all that is left."""
        left = self.input_bytes - self.closed.bytes_done - self.open.bytes_done
        return left / self.remaining_seconds if self.remaining_seconds else None


def _parse_finding(said: Document) -> Finding:
    fields = ("check", "severity", "message", "remedy")
    return Finding(*(str(said.get(name, "")) for name in fields))


def parse_progress(pod: str, body: Document) -> WorkerProgress:
    """A worker's ``/progress``; what an older one lacks is nothing. One whose stages still load
    knows nothing of the input."""
    is_starting = body.get("phase") == "Starting"
    return WorkerProgress(
        pod=pod,
        input_bytes=0 if is_starting else body.get("inputBytes", {}).get("total", 0),
        closed=_parse_totals(body.get("closedRanges", {})),
        open=_parse_totals(body.get("openRanges", {})),
        tokens_per_second=body.get("tokensPerSecond", 0.0),
        remaining_seconds=body.get("remainingSeconds"),
        swap_bytes=body.get("kvSwapBytes", {}),
        preflight=tuple(map(_parse_finding, body.get("preflight", ()))),
        energy=parse_energy(body.get("jobEnergy")),
        ledger_mark=str(body.get("ledgerMark") or ""),
    )


def _parse_totals(body: Document) -> RangeTotals:
    return RangeTotals(
        done=body.get("done", 0),
        failed=body.get("failed", 0),
        prompt_tokens=body.get("promptTokens", 0),
        generated_tokens=body.get("generatedTokens", 0),
        bytes_done=body.get("bytesDone", 0),
        read=body.get("read", 0),
        bytes_read=body.get("bytesRead", 0),
    )


def final_progress(counts: dict[str, int], before: Document | None, now: datetime) -> Document:
    """Of a worker's last word: every request has a record."""
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


def running_progress(
    workers: Sequence[WorkerProgress], before: Document | None, now: datetime
) -> Document | None:
    """What is done, by whomever, and what each has in hand add up to the whole job.

    It never goes back, though one worker may know less than another, or be gone; and it is 100 %
    only at the end, which a worker's last word decides.
    """
    running = [worker for worker in workers if worker.input_bytes]
    if not running:
        return before
    input_bytes = max(worker.input_bytes for worker in running)
    whole = max((worker.closed for worker in running), key=lambda closed: closed.bytes_done)
    for worker in running:
        whole += worker.open
    total, known = whole.estimate_total(input_bytes), before or {}
    done = max(whole.done, known.get("completed", 0) + known.get("failed", 0))
    is_exact = whole.bytes_read >= input_bytes
    if not is_exact and _is_exact(known.get("summary", "")):
        total, is_exact = known["totalRequests"], True  # by a worker that has read it all
    total = max(total, done)
    progress: Document = {
        "percent": f"{min(99, 100 * done // total) if total else 0}%",
        "summary": f"{done}/{'' if is_exact else '~'}{total}" if total else "0",
        "totalRequests": total,
        "completed": done - min(whole.failed, done),
        "failed": min(whole.failed, done),
        "promptTokens": max(whole.prompt_tokens, known.get("promptTokens", 0)),
        "generatedTokens": max(whole.generated_tokens, known.get("generatedTokens", 0)),
        "tokensPerSecond": round(sum(worker.tokens_per_second for worker in running)),
    }
    if (seconds := _remaining_seconds(running, input_bytes - whole.bytes_done)) is not None:
        progress["estimatedCompletionTime"] = format_time(now + timedelta(seconds=seconds))
        progress["remaining"] = format_remaining(seconds)
    same = before and all(
        before.get(name) == value for name, value in progress.items() if name not in _CLOCK_FIELDS
    )
    return before if same and before else {**progress, "lastUpdateTime": format_time(now)}


def _is_exact(summary: str) -> bool:
    """A summary without a total tells of a worker that had read nothing yet."""
    return "/" in summary and "~" not in summary


def _remaining_seconds(workers: Sequence[WorkerProgress], bytes_left: int) -> float | None:
    rates = [worker.bytes_per_second for worker in workers]
    together = sum(rate for rate in rates if rate)
    return max(0, bytes_left) / together if together > 0 else None


def format_remaining(seconds: float) -> str:
    """Two figures, as kubectl writes ages: ``45s``, ``12m30s``, ``3h5m``, ``2d4h``. kubectl itself
    prints a time that is yet to come as ``<invalid>``."""
    whole = round(seconds)
    units = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
    first = next((place for place, (_, size) in enumerate(units) if whole >= size), 3)
    text = ""
    for unit, size in units[first : first + 2]:
        count, whole = divmod(whole, size)
        text += f"{count}{unit}" if count or not text else ""
    return text


def without_rate(progress: Document | None) -> Document | None:
    """Where no worker runs, nothing is generated and no end is in sight."""
    if progress is None:
        return None
    return {name: value for name, value in progress.items() if name not in _RATE_FIELDS}
