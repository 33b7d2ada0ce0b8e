"""What happened between two pages of a worker. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pipemax_worker.top.worker_page import StageSeconds, WorkerPage


class StageShares(msgspec.Struct, frozen=True):
    """Of a stage's time, each from 0 to 1."""

    stage: int
    compute: float
    stall: float
    wait: float


class Rates(msgspec.Struct, frozen=True):
    """Per second. ``is_average``: since the run's start, for lack of an earlier page.

    swap_bytes   by link, such as ``host-device``.
    """

    is_average: bool
    generated_tokens: float
    prompt_tokens: float
    swap_bytes: dict[str, float]
    stages: tuple[StageShares, ...]
    tokens_per_joule: float | None

    @property
    def stall_share(self) -> float | None:
        """Of the stage that stalls most; None where no stage tells."""
        return max((stage.stall for stage in self.stages), default=None)


def measure_rates(before: WorkerPage | None, now: WorkerPage) -> Rates:
    """Between the two; since the start where ``before`` is none of the same run."""
    is_average = before is None or before.elapsed_seconds >= now.elapsed_seconds
    first = WorkerPage() if before is None or is_average else before
    seconds = now.elapsed_seconds - first.elapsed_seconds
    tokens = _per_second(first.tokens, now.tokens, seconds)
    generated = tokens.get("generated", 0.0)
    watts = (now.energy.joules - first.energy.joules) / seconds if seconds > 0 else 0.0
    known = {stage.stage: stage for stage in first.stage_seconds}
    return Rates(
        is_average=is_average,
        generated_tokens=generated,
        prompt_tokens=tokens.get("prompt", 0.0) + tokens.get("recomputed", 0.0),
        swap_bytes=_per_second(first.kv_swap_bytes, now.kv_swap_bytes, seconds),
        stages=tuple(
            _shares(known.get(stage.stage, StageSeconds()), stage) for stage in now.stage_seconds
        ),
        tokens_per_joule=generated / watts if watts > 0 else None,
    )


def _per_second(
    before: Mapping[str, int], now: Mapping[str, int], seconds: float
) -> dict[str, float]:
    """A counter that went back is a new pipeline's."""
    if seconds <= 0:
        return dict.fromkeys(now, 0.0)
    return {name: max(0, value - before.get(name, 0)) / seconds for name, value in now.items()}


def _shares(before: StageSeconds, now: StageSeconds) -> StageShares:
    spent = [
        max(0.0, now.compute - before.compute),
        max(0.0, now.stall - before.stall),
        max(0.0, now.wait - before.wait),
    ]
    whole = sum(spent) or 1.0
    compute, stall, wait = (one / whole for one in spent)
    return StageShares(now.stage, compute, stall, wait)


class RateMeter:
    """Keeps the last page of each worker, by a name of the caller's."""

    def __init__(self) -> None:
        self._last: dict[str, WorkerPage] = {}

    def measure(self, pages: Mapping[str, WorkerPage]) -> dict[str, Rates]:
        """Of each since the last time; who is not among ``pages`` is forgotten."""
        rates = {name: measure_rates(self._last.get(name), page) for name, page in pages.items()}
        self._last = dict(pages)
        return rates
