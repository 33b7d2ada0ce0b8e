"""Where the time of a simulated run went, and so what holds it back. Pure."""

from __future__ import annotations

import msgspec

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.engine.policies import POLICIES
from pipemax_worker.performance.batch_shape import BatchShape
from pipemax_worker.performance.stage_costs import derive_stage_costs
from pipemax_worker.performance.step_cost import fixed_seconds
from pipemax_worker.planner.simulation import SimulationResult, SimulationSettings
from pipemax_worker.planner.workload import Workload

STEADY_SHARE = 0.5
"""Of a run, from which on its steady part tells how a longer one would go on."""

_NEAR_KNEE_SHARE = 0.9


class TimeShares(msgspec.Struct, frozen=True):
    """Of the stage that computes longest, as shares of the run; the first six make up 1.

    weights      reading them once a step: what the steps would cost with one token each.
    kv_reading   attention's reading of KV.
    arithmetic   what the products of many tokens cost above the reading of the weights.
    fixed        launches and the like, by step and layer.
    link         waiting for KV that comes from the host.
    bubbles      waiting for the stages before, or for work.
    host_link, nvme   share of the run in which the busier direction of these links carries data:
                      near 1 it limits what can be moved, though nothing need wait for it.
    """

    weights: float
    kv_reading: float
    arithmetic: float
    fixed: float
    link: float
    bubbles: float
    host_link: float
    nvme: float


def derive_time_shares(
    settings: SimulationSettings, workload: Workload, result: SimulationResult
) -> TimeShares | None:
    """None for a system that is no pipeline of ours."""
    if settings.policy not in POLICIES:
        return None
    slowest = max(result.statistics.stages, key=lambda stage: stage.compute_seconds)
    profile = settings.node.stage_profile()
    costs = derive_stage_costs(settings.model, settings.geometry, settings.dtype)
    cost = costs[slowest.stage]
    seconds, num_steps = result.seconds, result.num_steps
    compute = slowest.compute_seconds
    fixed = min(compute, num_steps * fixed_seconds(profile, cost))
    weights = min(compute - fixed, num_steps * _weights_seconds(settings, result, slowest.stage))
    kv_bytes = num_kv_positions(workload) * cost.kv_bytes_per_token
    kv_reading = min(
        compute - fixed - weights, kv_bytes / profile.memory_bandwidth_bytes_per_second
    )
    stall = slowest.stall_seconds
    return TimeShares(
        weights=weights / seconds,
        kv_reading=kv_reading / seconds,
        arithmetic=(compute - fixed - weights - kv_reading) / seconds,
        fixed=fixed / seconds,
        link=stall / seconds,
        bubbles=max(0.0, 1.0 - (compute + stall) / seconds),
        host_link=_busy_share(result, Tier.HOST, Tier.DEVICE),
        nvme=_busy_share(result, Tier.HOST, Tier.NVME),
    )


def _weights_seconds(settings: SimulationSettings, result: SimulationResult, stage: int) -> float:
    """Of one step: what it costs with one token, and the other experts that more tokens touch."""
    profile = settings.node.stage_profile()
    costs = derive_stage_costs(settings.model, settings.geometry, settings.dtype)
    cost = costs[stage]
    one_token = settings.node.step_cost(costs).stage_seconds(BatchShape(1, 0, 1), stage)
    seconds = one_token - fixed_seconds(profile, cost)
    if cost.experts is None:
        return seconds
    num_tokens = max(1, round(result.mean_batch_tokens))
    more = cost.experts.touched_share(num_tokens) - cost.experts.touched_share(1)
    return seconds + more * cost.expert_bytes / profile.memory_bandwidth_bytes_per_second


def num_kv_positions(workload: Workload) -> int:
    """That attention reads for all requests: each new token all before it, a prompt itself once."""
    return sum(
        prompt + output * prompt + output * (output + 1) // 2 for prompt, output in workload.lengths
    )


def _busy_share(result: SimulationResult, one: Tier, other: Tier) -> float:
    return max(
        (
            copies.seconds / result.seconds
            for copies in result.statistics.copies
            if {copies.source, copies.target} == {one, other}
        ),
        default=0.0,
    )


def describe_limit(
    settings: SimulationSettings, workload: Workload, result: SimulationResult
) -> str:
    """One sentence: too few requests, or the largest share of the time and what is behind it."""
    if result.steady_seconds < STEADY_SHARE * result.seconds:
        return (
            f"its end: {result.num_requests} requests do not keep the pipeline full for half of "
            "the time; simulate more of them for a larger job"
        )
    shares = derive_time_shares(settings, workload, result)
    if shares is None:
        return "what its own simulator does not tell apart"
    texts = {
        "link": f"the host link: stages wait {shares.link:.0%} of the time for KV",
        "bubbles": f"bubbles: the busiest stage computes {1 - shares.bubbles - shares.link:.0%} "
        "of the time",
        "arithmetic": f"arithmetic: {shares.arithmetic:.0%} of the time goes beyond the reading of "
        "weights and KV",
        "kv_reading": f"reading KV: {shares.kv_reading:.0%} of the time",
        "fixed": f"launches: {shares.fixed:.0%} of the time is fixed costs of steps and layers",
        "weights": _describe_weights(settings, result, shares),
    }
    return max(texts.items(), key=lambda item: getattr(shares, item[0]))[1]


def _describe_weights(
    settings: SimulationSettings, result: SimulationResult, shares: TimeShares
) -> str:
    knee, geometry = knee_tokens(settings), settings.geometry
    if result.mean_batch_tokens >= _NEAR_KNEE_SHARE * knee:
        return f"reading weights: {shares.weights:.0%} of the time, with steps filled to the knee"
    room = geometry.num_device_slots * geometry.block_tokens
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
    token_seconds = 2 * heaviest.num_active_parameters / profile.flops_per_second
    return max(1, int(weights_seconds / token_seconds))
