"""Predicts a job on hardware that need not be here: every policy, and the best settings of ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from pipemax_worker.errors import KVTierError, PipemaxError, RequestError
from pipemax_worker.planner.cost import TokenCost, token_cost
from pipemax_worker.planner.limits import (
    STEADY_SHARE,
    TimeShares,
    derive_time_shares,
    describe_limit,
)
from pipemax_worker.planner.plan_search import OURS, EngineChoice, axes_of, refine
from pipemax_worker.planner.rivals import RIVALS, simulate_rival
from pipemax_worker.planner.simulation import SimulationResult, SimulationSettings, simulate
from pipemax_worker.planner.workload import Workload

Derive = Callable[[EngineChoice], SimulationSettings]
"""What a job with these fields would be on the node. Raises KVTierError if it cannot be there."""


class Prices(msgspec.Struct, frozen=True):
    """US dollars: of one card and hour, of a kilowatt hour (0: in the rent)."""

    gpu_hour: float
    kwh: float = 0.0


class PlanRow(msgspec.Struct, frozen=True):
    """One simulated setting. ``job_seconds``: of the whole job, at this run's rate. ``shares``:
    None where the simulator of a rival does not keep them."""

    choice: EngineChoice
    policy: str
    token_target: int
    num_micro_batches: int
    has_host_tier: bool
    kv_dtype: str
    result: SimulationResult
    cost: TokenCost
    limit: str
    shares: TimeShares | None
    job_seconds: float


class PlanReport(msgspec.Struct, frozen=True):
    """``rows``: one a policy, at its best setting of those tried on ``num_sampled`` requests;
    ``best``: of all rows. ``fp8``: the best with 8-bit KV, which rounds: for the user to choose.
    ``refused``: policies that cannot run there, and why."""

    hardware: str
    num_gpus: int
    layers_of_stage: tuple[int, ...]
    mlp_left_by_stage: tuple[bool, ...]
    device_kv_tokens: int
    host_kv_tokens: int
    num_simulated: int
    num_sampled: int
    num_requests: int
    rows: tuple[PlanRow, ...]
    tried: tuple[PlanRow, ...]
    fp8: PlanRow | None = None
    refused: tuple[tuple[str, str], ...] = ()

    @property
    def best(self) -> PlanRow:
        return max(self.rows, key=lambda row: row.result.output_tokens_per_second)

    def as_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self))


class PlanOrder(msgspec.Struct, frozen=True):
    """What is to be planned.

    num_sampled     requests of the workload on which settings are tried; all of it then runs once
                    a policy, at the best of them.
    num_requests    of the job; None: those of the workload.
    tries_fp8       simulate the best setting of ours with 8-bit KV as well.
    """

    workload: Workload
    policies: tuple[str, ...]
    prices: Prices
    num_sampled: int
    num_requests: int | None = None
    tries_fp8: bool = True


class Planner:
    """Carries out one order. ``on_row`` hears of every setting as it ends."""

    def __init__(
        self, derive: Derive, order: PlanOrder, on_row: Callable[[PlanRow], None] = lambda row: None
    ) -> None:
        self._derive, self._order, self._on_row = derive, order, on_row
        self._sample = order.workload.first(order.num_sampled)
        self._num_requests = order.num_requests or len(order.workload.lengths)
        self._tried: list[PlanRow] = []
        self._refused: list[tuple[str, str]] = []

    def plan(self) -> PlanReport:
        """Raises the first policy's error if none can run (JobFileError, KVTierError, RequestError)
        and JobFileError for an unknown policy."""
        order, faults = self._order, []
        rows: list[PlanRow] = []
        for policy in order.policies:
            try:
                rows.append(self._plan_policy(policy))
            except (KVTierError, RequestError) as error:
                faults.append(error)
                self._refused.append((policy, str(error)))
        if not rows:
            raise faults[0]
        geometry = self._derive(rows[0].choice).geometry
        return PlanReport(
            hardware=self._derive(rows[0].choice).node.title,
            num_gpus=self._derive(rows[0].choice).node.num_gpus,
            layers_of_stage=geometry.layers_of_stage,
            mlp_left_by_stage=geometry.mlp_left_by_stage,
            device_kv_tokens=geometry.num_device_slots * geometry.block_tokens,
            host_kv_tokens=geometry.num_host_slots * geometry.block_tokens,
            num_simulated=len(order.workload.lengths),
            num_sampled=len(self._sample.lengths),
            num_requests=self._num_requests,
            rows=tuple(rows),
            tried=tuple(self._tried),
            fp8=self._with_fp8(rows) if order.tries_fp8 else None,
            refused=tuple(self._refused),
        )

    def _plan_policy(self, policy: str) -> PlanRow:
        start = EngineChoice(policy)
        settings = self._derive(start)
        axes = axes_of(start, settings)
        choice = start
        if axes:
            choice = refine(start, axes, self._try_out)
        return self._run(choice, self._order.workload)

    def _try_out(self, choice: EngineChoice) -> float | None:
        """Seconds of a run of the sample; None if it cannot be."""
        try:
            row = self._run(choice, self._sample)
        except (KVTierError, RequestError):
            return None
        self._tried.append(row)
        return row.result.seconds

    def _with_fp8(self, rows: Sequence[PlanRow]) -> PlanRow | None:
        ours = [row for row in rows if row.policy == OURS]
        if not ours or ours[0].kv_dtype == "fp8_e4m3":
            return None
        choice = msgspec.structs.replace(ours[0].choice, kv_dtype="fp8_e4m3")
        try:
            return self._run(choice, self._order.workload)
        except PipemaxError:
            return None

    def _run(self, choice: EngineChoice, workload: Workload) -> PlanRow:
        settings = self._derive(choice)
        row = build_row(settings, choice, workload, self._order.prices, self._num_requests)
        self._on_row(row)
        return row


def build_row(
    settings: SimulationSettings,
    choice: EngineChoice,
    workload: Workload,
    prices: Prices,
    num_requests: int,
) -> PlanRow:
    """Simulates one setting. Raises RequestError if a request can never run in these tiers."""
    result = simulate_system(settings, workload)
    return PlanRow(
        choice=choice,
        policy=settings.policy,
        token_target=settings.scheduler.token_target,
        num_micro_batches=settings.scheduler.num_micro_batches,
        has_host_tier=settings.geometry.num_host_slots > 0,
        kv_dtype=settings.geometry.kv_dtype,
        result=result,
        cost=token_cost(settings.node, result, prices.gpu_hour, prices.kwh),
        limit=describe_limit(settings, workload, result),
        shares=derive_time_shares(settings, workload, result),
        job_seconds=job_seconds(result, num_requests),
    )


def simulate_system(settings: SimulationSettings, workload: Workload) -> SimulationResult:
    """A policy by our engine, or a rival by its own simulator. Raises RequestError."""
    if settings.policy in RIVALS:
        return simulate_rival(settings.policy, settings, workload)
    return simulate(settings, workload)


def job_seconds(result: SimulationResult, num_requests: int) -> float:
    """Of ``num_requests`` alike: what is beyond the simulated ones goes at the steady rate, where
    that is known of half of the run; else all goes at the run's."""
    num_more = num_requests - result.num_requests
    if num_more <= 0 or result.steady_seconds < STEADY_SHARE * result.seconds:
        return result.seconds * num_requests / result.num_requests
    tokens_each = result.num_output_tokens / result.num_requests
    return result.seconds + num_more * tokens_each / result.steady_output_tokens_per_second
