"""What holds a simulated run back, in one sentence. Pure."""

from __future__ import annotations

from pipemax_worker.planner.simulation import SimulationResult, SimulationSettings
from pipemax_worker.planner.stage_costs import derive_stage_costs

_STALL_SHARE = 0.1
_BUBBLE_SHARE = 0.25
_STEADY_SHARE = 0.5


def describe_limit(settings: SimulationSettings, result: SimulationResult) -> str:
    """The first that applies: too few requests, stalls, bubbles, arithmetic, room for KV."""
    if result.steady_seconds < _STEADY_SHARE * result.seconds:
        return (
            f"its end: {result.num_requests} requests do not keep the pipeline full for half of "
            "the time; simulate more of them for a larger job"
        )
    stages = result.statistics.stages
    slowest = max(stages, key=lambda stage: stage.compute_seconds)
    stall_share = max(stage.stall_seconds for stage in stages) / result.seconds
    if stall_share > _STALL_SHARE:
        return f"the host link: stages wait {stall_share:.0%} of the time for KV"
    idle_share = 1.0 - slowest.compute_seconds / result.seconds
    if idle_share > _BUBBLE_SHARE:
        return f"bubbles: the busiest stage computes {1 - idle_share:.0%} of the time"
    knee = knee_tokens(settings)
    if result.mean_batch_tokens >= knee:
        return f"arithmetic: {result.mean_batch_tokens:.0f} tokens a step, the knee is at {knee}"
    room = settings.geometry.num_device_slots * settings.geometry.block_tokens
    return (
        f"room for KV: {result.mean_batch_tokens:.0f} tokens a step of {knee} that the reading of "
        f"the weights would allow ({room} tokens of KV on the GPUs)"
    )


def knee_tokens(settings: SimulationSettings) -> int:
    """Tokens up to which a step costs no more than the weights' reading, by the card's speeds."""
    profile = settings.node.stage_profile()
    costs = derive_stage_costs(settings.model, settings.geometry, settings.dtype)
    heaviest = max(costs, key=lambda cost: cost.weight_bytes)
    weights_seconds = heaviest.weight_bytes / profile.memory_bandwidth_bytes_per_second
    return max(1, int(weights_seconds * profile.flops_per_second / (2 * heaviest.num_parameters)))
