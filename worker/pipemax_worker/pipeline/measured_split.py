"""What a run's stages measured, as costs for ``layer_split``: is there a faster split? Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipemax_worker.contract.model_cut import ModelCut
from pipemax_worker.pipeline.layer_split import SplitCosts, split_layers


@dataclass(frozen=True)
class SplitAdvice:
    """The split that the measured times ask for, and the slowest stage's time with it over that of
    the split that was measured: 1 where that is as good. Room for KV is left aside."""

    layers_of_stage: tuple[int, ...]
    time_share: float


def advise_split(costs: SplitCosts, cut: ModelCut, stage_seconds: Sequence[float]) -> SplitAdvice:
    """``stage_seconds``: what each stage of ``cut`` computed, over the same steps. Advised is a
    split into whole layers."""
    if cut.num_stages == 1 or min(stage_seconds) <= 0:
        return SplitAdvice(cut.layers_of_stage, 1.0)
    measured = with_measured_times(costs, cut, stage_seconds)
    best = split_layers(measured, cut.num_stages)
    share = _slowest(measured, ModelCut(best)) / _slowest(measured, cut)
    return SplitAdvice(best, share) if share < 1 else SplitAdvice(cut.layers_of_stage, 1.0)


def with_measured_times(
    costs: SplitCosts, cut: ModelCut, stage_seconds: Sequence[float]
) -> SplitCosts:
    """``costs`` with times in seconds: a layer's are those of all stages but the last, in
    proportion to ``costs.layer_seconds``; what the last takes beyond its layers is the head's and
    sampling's. Reading KV is part of a layer's time, for it was part of what was measured."""
    *by_size, last_by_size = _layer_seconds(costs, cut)
    scale = sum(stage_seconds[:-1]) / sum(by_size)
    return replace(
        costs,
        layer_seconds=tuple(scale * seconds for seconds in costs.layer_seconds),
        head_seconds=max(0.0, stage_seconds[-1] - scale * last_by_size),
        kv_seconds_per_token=0.0,
    )


def _layer_seconds(costs: SplitCosts, cut: ModelCut) -> list[float]:
    """Of each stage's layers and parts of layers."""
    seconds = []
    for stage in range(cut.num_stages):
        attention, mlp = cut.layers(stage)
        of_attention = (
            costs.layer_seconds[layer] - costs.mlp_seconds(layer) for layer in attention
        )
        seconds.append(sum(of_attention) + sum(map(costs.mlp_seconds, mlp)))
    return seconds


def _slowest(costs: SplitCosts, cut: ModelCut) -> float:
    seconds = _layer_seconds(costs, cut)
    seconds[-1] += costs.head_seconds
    return max(seconds)
