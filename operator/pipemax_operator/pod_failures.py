"""Workers that end again and again before they have done anything: why, and for how long. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pipemax_operator.exit_codes import STOPPED
from pipemax_operator.observed import Observed, ObservedPod, Termination

CRASH_LOOP_ENDS = 2
"""One end may be an accident; so many without anything done in between are none."""

_RECENTLY = timedelta(minutes=15)
"""The next worker of an index comes after ten minutes at the latest."""


@dataclass(frozen=True)
class Failing:
    """``since``: when the first of the workers that failed was made. ``is_loop``: they end one
    after the other, and no request has ever been worked on."""

    reason: str
    message: str
    since: datetime | None
    is_loop: bool


def find_failing(observed: Observed, now: datetime) -> Failing | None:
    """Of the worker that failed last since the child Job's start. None where none has, or where it
    is an old story: long ago, in a job that has worked since."""
    start = observed.job.start_time if observed.job else None
    failed = [
        (ended, pod)
        for pod in observed.pods
        if (ended := _failure(pod)) and (start is None or _end_time(ended) >= start)
    ]
    if not failed:
        return None
    ended, last = max(failed, key=lambda one: _end_time(one[0]))
    is_loop = len(failed) >= CRASH_LOOP_ENDS and not _has_worked(observed.status)
    if not is_loop and now - _end_time(ended) > _RECENTLY:
        return None
    words = ended.message or ended.reason or f"exit code {ended.exit_code}"
    return Failing(
        reason=ended.reason or f"ExitCode{ended.exit_code}",
        message=f"pod {last.name} on node {last.node or 'none'} has failed: {words}",
        since=min((pod.since for _, pod in failed if pod.since), default=None),
        is_loop=is_loop,
    )


def _failure(pod: ObservedPod) -> Termination | None:
    """Nothing of a pod that stopped in order, or was lost with its node."""
    ended = pod.termination
    is_lost = pod.given_up_at is not None or pod.is_terminating
    return None if ended is None or ended.exit_code in (0, STOPPED) or is_lost else ended


def _end_time(ended: Termination) -> datetime:
    """What has no time is old."""
    return ended.finished_at or datetime.min.replace(tzinfo=UTC)


def _has_worked(status: dict[str, Any]) -> bool:
    """Whether any worker of the job has generated a token so far."""
    progress = status.get("progress") or {}
    return any(progress.get(name) for name in ("completed", "failed", "generatedTokens"))
