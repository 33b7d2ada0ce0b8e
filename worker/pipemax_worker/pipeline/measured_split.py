"""What a run's stages measured, as costs for ``layer_split``: is there a faster split? Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipemax_worker.pipeline.layer_split import SplitCosts, split_layers


@dataclass(frozen=True)
class SplitAdvice:
    """The split that the measured times ask for, and the slowest stage's time with it over that of
    the split that was measured: 1 where that is as good. Room for KV is left aside."""

    layers_of_stage: tuple[int, ...]
    time_share: float


def advise_split(
    costs: SplitCosts, layers_of_stage: Sequence[int], stage_seconds: Sequence[float]
) -> SplitAdvice:
    """``stage_seconds``: what each stage of ``layers_of_stage`` computed, over the same steps."""
    split, num_stages = tuple(layers_of_stage), len(layers_of_stage)
    if num_stages == 1 or min(stage_seconds) <= 0:
        return SplitAdvice(split, 1.0)
    measured = with_measured_times(costs, split, stage_seconds)
    best = split_layers(measured, num_stages)
    share = _slowest(measured, best) / _slowest(measured, split)
    return SplitAdvice(best, share) if share < 1 else SplitAdvice(split, 1.0)


def with_measured_times(
    costs: SplitCosts, layers_of_stage: Sequence[int], stage_seconds: Sequence[float]
) -> SplitCosts:
    """``costs`` with times in seconds: a layer's are those of all stages but the last, in
    proportion to ``costs.layer_seconds``; what the last takes beyond its layers is the head's and
    sampling's. Reading KV is part of a layer's time, for it was part of what was measured."""
    of_layers = sum(stage_seconds[:-1])
    num_last = layers_of_stage[-1]
    scale = of_layers / sum(costs.layer_seconds[:-num_last])
    layer_seconds = tuple(scale * seconds for seconds in costs.layer_seconds)
    head_seconds = max(0.0, stage_seconds[-1] - sum(layer_seconds[-num_last:]))
    return replace(
        costs, layer_seconds=layer_seconds, head_seconds=head_seconds, kv_seconds_per_token=0.0
    )


def _slowest(costs: SplitCosts, layers_of_stage: Sequence[int]) -> float:
    first, seconds = 0, []
    for num_layers in layers_of_stage:
        seconds.append(sum(costs.layer_seconds[first : first + num_layers]))
        first += num_layers
    seconds[-1] += costs.head_seconds
    return max(seconds)
