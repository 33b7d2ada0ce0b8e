"""What a run costs in electricity and money. Pure."""

from __future__ import annotations

import msgspec

from pipemax_worker.performance.node_profile import NodeProfile
from pipemax_worker.planner.simulation import SimulationResult

_SECONDS_PER_HOUR = 3600.0
_MILLION = 1e6
_JOULES_PER_KWH = 3.6e6


class TokenCost(msgspec.Struct, frozen=True):
    """Per million output tokens: kilowatt hours and US dollars, the cards' rent with or without
    their electricity as the caller has it."""

    kwh_per_million: float
    dollars_per_million: float


def node_watts(node: NodeProfile, busy_ratios: tuple[float, ...]) -> float:
    """Mean power of the node: a card draws between its idle and its full power, by the share of
    time in which it computes."""
    gpu = node.gpu
    span = gpu.power_watts - gpu.idle_power_watts
    cards = node.num_gpus * gpu.idle_power_watts + span * sum(busy_ratios)
    return node.host.power_watts + cards


def token_cost(
    node: NodeProfile, result: SimulationResult, price_per_hour: float, price_per_kwh: float
) -> TokenCost:
    """``price_per_hour`` of one card; ``price_per_kwh`` 0 where the rent includes it."""
    kwh = node_watts(node, result.busy_ratios) * result.seconds / _JOULES_PER_KWH
    rent = node.num_gpus * price_per_hour * result.seconds / _SECONDS_PER_HOUR
    millions = result.num_output_tokens / _MILLION
    return TokenCost(kwh / millions, (rent + kwh * price_per_kwh) / millions)
