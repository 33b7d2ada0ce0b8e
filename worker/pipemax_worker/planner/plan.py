"""Predicts a job on hardware that need not be here: every policy, and the best settings of ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from pipemax_worker.contract.geometry import KVGeometry
from pipemax_worker.engine.policies import WITHOUT_HOST_TIER
from pipemax_worker.planner.cost import TokenCost, token_cost
from pipemax_worker.planner.limits import describe_limit, knee_tokens
from pipemax_worker.planner.simulation import SimulationResult, SimulationSettings, simulate
from pipemax_worker.planner.workload import Workload

OURS = "fused"
_TILE_TOKENS = 16


class Prices(msgspec.Struct, frozen=True):
    """US dollars: of one card and hour, of a kilowatt hour (0: in the rent)."""

    gpu_hour: float
    kwh: float = 0.0


class PlanRow(msgspec.Struct, frozen=True):
    """One simulated setting. ``job_seconds``: of the whole job, at this run's rate."""

    policy: str
    token_target: int
    num_micro_batches: int
    has_host_tier: bool
    result: SimulationResult
    cost: TokenCost
    limit: str
    job_seconds: float


class PlanReport(msgspec.Struct, frozen=True):
    """``rows``: one a policy, at its best setting of those tried; ``best``: of all rows."""

    hardware: str
    num_gpus: int
    layers_of_stage: tuple[int, ...]
    device_kv_tokens: int
    host_kv_tokens: int
    rows: tuple[PlanRow, ...]
    tried: tuple[PlanRow, ...]

    @property
    def best(self) -> PlanRow:
        return max(self.rows, key=lambda row: row.result.output_tokens_per_second)

    def as_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self))


def plan_policies(
    settings: SimulationSettings,
    workload: Workload,
    policies: Sequence[str],
    prices: Prices,
    num_requests_of_job: int | None = None,
    on_row: Callable[[PlanRow], None] = lambda row: None,
) -> PlanReport:
    """Simulate each policy with each of its settings. ``on_row`` hears of every one as it ends.

    Raises JobFileError for an unknown policy, RequestError if a request can never run.
    """
    tried: list[PlanRow] = []
    num_requests = num_requests_of_job or len(workload.lengths)
    for policy in policies:
        for variant in variants(settings, policy):
            row = _run(variant, workload, prices, num_requests)
            on_row(row)
            tried.append(row)
    geometry = settings.geometry
    return PlanReport(
        hardware=settings.node.title,
        num_gpus=settings.node.num_gpus,
        layers_of_stage=geometry.layers_of_stage,
        device_kv_tokens=geometry.num_device_slots * geometry.block_tokens,
        host_kv_tokens=geometry.num_host_slots * geometry.block_tokens,
        rows=tuple(_best_of(tried, policy) for policy in policies),
        tried=tuple(tried),
    )


def variants(settings: SimulationSettings, policy: str) -> list[SimulationSettings]:
    """Settings worth trying. Ours: steps filled up to the knee or to the stages' buffers, with and
    without the host tier. Others: as they are."""
    targets: list[int | None] = [None]
    geometries = [settings.geometry]
    if policy in WITHOUT_HOST_TIER:
        geometries = [_without_host(settings.geometry)]
    elif policy == OURS:
        knee = max(_TILE_TOKENS, knee_tokens(settings) // _TILE_TOKENS * _TILE_TOKENS)
        if knee < settings.scheduler.max_batched_tokens:
            targets = [knee, None]
        if settings.geometry.num_host_slots:
            geometries = [settings.geometry, _without_host(settings.geometry)]
    return [
        msgspec.structs.replace(
            settings,
            policy=policy,
            scheduler=msgspec.structs.replace(
                settings.scheduler, geometry=geometry, target_batched_tokens=target
            ),
        )
        for geometry in geometries
        for target in targets
    ]


def _without_host(geometry: KVGeometry) -> KVGeometry:
    return msgspec.structs.replace(geometry, num_host_slots=0, num_nvme_slots=0)


def _run(
    settings: SimulationSettings, workload: Workload, prices: Prices, num_requests: int
) -> PlanRow:
    result = simulate(settings, workload)
    return PlanRow(
        policy=settings.policy,
        token_target=settings.scheduler.token_target,
        num_micro_batches=settings.scheduler.num_micro_batches,
        has_host_tier=settings.geometry.num_host_slots > 0,
        result=result,
        cost=token_cost(settings.node, result, prices.gpu_hour, prices.kwh),
        limit=describe_limit(settings, result),
        job_seconds=job_seconds(result, num_requests),
    )


def job_seconds(result: SimulationResult, num_requests: int) -> float:
    """Of ``num_requests`` alike: what is beyond the simulated ones goes at the steady rate."""
    num_more = num_requests - result.num_requests
    if num_more <= 0:
        return result.seconds * num_requests / result.num_requests
    tokens_each = result.num_output_tokens / result.num_requests
    rate = result.steady_output_tokens_per_second or result.output_tokens_per_second
    return result.seconds + num_more * tokens_each / rate


def _best_of(tried: Sequence[PlanRow], policy: str) -> PlanRow:
    rows = [row for row in tried if row.policy == policy]
    return max(rows, key=lambda row: row.result.output_tokens_per_second)
