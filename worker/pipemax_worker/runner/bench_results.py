"""What a benchmark found, and the ratios that follow from it. Pure."""

from __future__ import annotations

from statistics import median
from typing import Any

import msgspec

from pipemax_worker.runner.bench_conditions import BenchConditions
from pipemax_worker.runner.bench_engine import EngineRun


class Measured(msgspec.Struct, frozen=True):
    """All runs of one setting of ours, in order; the median of them counts."""

    name: str
    num_stages: int
    runs: tuple[EngineRun, ...]

    @property
    def tokens_per_second(self) -> float:
        return median(run.tokens_per_second for run in self.runs)

    @property
    def median_run(self) -> EngineRun:
        """The run in the middle; of an even number the slower one."""
        ordered = sorted(self.runs, key=lambda run: run.tokens_per_second)
        return ordered[(len(ordered) - 1) // 2]


class BaselineMeasured(msgspec.Struct, frozen=True):
    """All runs of one setting of another engine; the best of them counts.

    Without ``seconds`` if it failed."""

    name: str
    method: str
    seconds: tuple[float, ...]
    num_generated_tokens: int
    token_ids: tuple[tuple[int, ...], ...] = ()
    error: str | None = None

    @property
    def tokens_per_second(self) -> float:
        return self.num_generated_tokens / min(self.seconds) if self.seconds else 0.0


class BenchReport(msgspec.Struct, frozen=True):
    """``pipemax``: in the order of the options; rotation has the roomy tier first."""

    conditions: BenchConditions
    pipemax: tuple[Measured, ...]
    baselines: tuple[BaselineMeasured, ...] = ()
    is_rotation: bool = False

    def ratios(self) -> dict[str, float]:
        """By what they say. ``best baseline``: every stage count over the best of all others."""
        first = self.pipemax[0]
        ratios = {
            f"{other.name} / {first.name}": other.tokens_per_second / first.tokens_per_second
            for other in self.pipemax[1:]
        }
        for best in self.best_of_each_method():
            for ours in self.pipemax:
                ratio = ours.tokens_per_second / best.tokens_per_second
                ratios[f"{ours.name} / transformers {best.method}"] = ratio
        return ratios

    def best_of_each_method(self) -> tuple[BaselineMeasured, ...]:
        best: dict[str, BaselineMeasured] = {}
        for measured in self.baselines:
            known = best.get(measured.method)
            if measured.seconds and (
                known is None or measured.tokens_per_second > known.tokens_per_second
            ):
                best[measured.method] = measured
        return tuple(best.values())

    def num_equal(self, other: BaselineMeasured) -> int:
        """Requests for which both generated the same tokens. Float sums in another order may turn
        a close decision, after which a text goes another way."""
        ours = self.pipemax[0].runs[0].token_ids
        return sum(one == another for one, another in zip(ours, other.token_ids, strict=True))

    def as_json(self) -> bytes:
        """Everything but the generated tokens."""
        document = _without_token_ids(msgspec.to_builtins(self))
        speeds = {measured.name: measured.tokens_per_second for measured in self.pipemax}
        speeds |= {measured.name: measured.tokens_per_second for measured in self.baselines}
        document["tokens_per_second"] = speeds
        document["ratios"] = self.ratios()
        return msgspec.json.format(msgspec.json.encode(document))


def _without_token_ids(value: Any) -> Any:
    if isinstance(value, dict):
        kept = ((key, item) for key, item in value.items() if key != "token_ids")
        return {key: _without_token_ids(item) for key, item in kept}
    if isinstance(value, list | tuple):
        return [_without_token_ids(item) for item in value]
    return value
