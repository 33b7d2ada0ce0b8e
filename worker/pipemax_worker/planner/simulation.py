"""Runs a workload through the real engine on a simulated node, and says what came of it."""

from __future__ import annotations

from itertools import islice

import msgspec

from pipemax_worker.contract.geometry import KVGeometry, Tier
from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.contract.request import FinishedRequest
from pipemax_worker.contract.statistics import EngineStatistics
from pipemax_worker.engine.config import SchedulerConfig
from pipemax_worker.engine.engine import Engine
from pipemax_worker.engine.policies import build_policy
from pipemax_worker.engine.scheduler import Scheduler
from pipemax_worker.kvcache.block_manager import BlockManager
from pipemax_worker.kvcache.eviction import CachedEviction
from pipemax_worker.performance.correction import CorrectedEstimator, EstimatorAccuracy
from pipemax_worker.performance.link import LinkEstimator
from pipemax_worker.performance.node_profile import NodeProfile
from pipemax_worker.performance.stage_costs import derive_stage_costs
from pipemax_worker.performance.step_cost import StepCost
from pipemax_worker.planner.fast_forward import FastForward
from pipemax_worker.planner.simulated_links import LinkSpeeds
from pipemax_worker.planner.simulated_pipeline import HopSpeed, SimulatedPipeline
from pipemax_worker.planner.virtual_clock import VirtualClock
from pipemax_worker.planner.workload import Workload

_HIDDEN_ELEMENT_BYTES = 2
_FIRST_FINISHED_SHARE = 0.1


class SimulationSettings(msgspec.Struct, frozen=True):
    """A node, a model cut for it, and how its engine schedules.

    dtype        of the weights.
    look_ahead   requests given to the engine ahead of time.
    fast_forward   take turns without their messages where the policy and the tiers allow it: the
                   same result, sooner. Without it ``Simulation.pipeline`` sees every message.
    """

    node: NodeProfile
    model: ModelConfig
    scheduler: SchedulerConfig
    policy: str
    dtype: str = "bfloat16"
    look_ahead: int = 1024
    fast_forward: bool = True

    @property
    def geometry(self) -> KVGeometry:
        return self.scheduler.geometry


class SimulationResult(msgspec.Struct, frozen=True):
    """``steady_*``: from the first tenth's end until nobody waits (as ``pipemax bench`` has it);
    0 if there was no such time."""

    seconds: float
    num_requests: int
    num_prompt_tokens: int
    num_output_tokens: int
    steady_seconds: float
    steady_prompt_tokens: int
    steady_output_tokens: int
    num_steps: int
    mean_batch_tokens: float
    statistics: EngineStatistics
    accuracy: EstimatorAccuracy

    @property
    def output_tokens_per_second(self) -> float:
        return self.num_output_tokens / self.seconds

    @property
    def tokens_per_second(self) -> float:
        """In and out: the paper's measure."""
        return (self.num_prompt_tokens + self.num_output_tokens) / self.seconds

    @property
    def steady_output_tokens_per_second(self) -> float:
        return self.steady_output_tokens / self.steady_seconds if self.steady_seconds else 0.0

    @property
    def busy_ratios(self) -> tuple[float, ...]:
        """Of each stage: share of the run in which it computes."""
        return tuple(stage.compute_seconds / self.seconds for stage in self.statistics.stages)


class Simulation:
    """One run. ``engine`` and ``pipeline`` are open to tests.

    step_cost   of the stages; None: what the node and the model give.
    """

    def __init__(
        self, settings: SimulationSettings, workload: Workload, step_cost: StepCost | None = None
    ) -> None:
        self.settings = settings
        self.workload = workload
        self.clock = VirtualClock()
        geometry, node = settings.geometry, settings.node
        if step_cost is None:
            costs = derive_stage_costs(settings.model, geometry, settings.dtype)
            step_cost = node.step_cost(costs)
        self.pipeline = SimulatedPipeline(
            self.clock, geometry, step_cost, link_speeds(node), hop_speed(settings)
        )
        self.estimator = CorrectedEstimator(step_cost)
        self.manager = BlockManager(
            {tier: geometry.num_slots(tier) for tier in Tier},
            geometry.num_stages,
            CachedEviction(),
        )
        scheduler = Scheduler(
            settings.scheduler,
            self.manager,
            build_policy(settings.policy),
            self.estimator,
            LinkEstimator(node.stage_profile()),
        )
        self.engine = Engine(self.pipeline, scheduler, self.clock)
        self.fast_forward = FastForward(self.engine, self.pipeline, self.estimator)
        self._num_finished = 0

    def run(self) -> SimulationResult:
        """Raises RequestError if a request can never run in these tiers."""
        engine, waiting = self.engine, self.workload.requests()
        num_requests, num_given = len(self.workload.lengths), 0
        begin = end = None
        num_first = max(1, round(_FIRST_FINISHED_SHARE * num_requests))
        while True:
            num_wanted = self.settings.look_ahead - engine.num_waiting
            for request, checker in islice(waiting, max(0, num_wanted)):
                engine.add_request(request, checker)
                num_given += 1
            if not engine.has_unfinished_requests:
                break
            self._num_finished += len(self.step())
            engine.take_step_records()
            is_full = engine.num_waiting > 0 or num_given < num_requests
            if begin is None and self._num_finished >= num_first and is_full:
                begin = self._sample()
            elif begin is not None and end is None and not is_full:
                end = self._sample()
        self.fast_forward.end()
        return self._result(begin, end)

    def step(self) -> list[FinishedRequest]:
        """A step of the engine, or the turns of many that have no effect but the last one's."""
        return self.fast_forward.step() if self.settings.fast_forward else self.engine.step()

    def _sample(self) -> tuple[float, EngineStatistics]:
        self.fast_forward.write()
        return self.clock.now(), self.engine.statistics

    def _result(
        self,
        begin: tuple[float, EngineStatistics] | None,
        end: tuple[float, EngineStatistics] | None,
    ) -> SimulationResult:
        statistics = self.engine.statistics
        steady = (0.0, 0, 0)
        if begin is not None and end is not None:
            steady = (
                end[0] - begin[0],
                end[1].num_prompt_tokens - begin[1].num_prompt_tokens,
                end[1].num_generated_tokens - begin[1].num_generated_tokens,
            )
        return SimulationResult(
            seconds=self.clock.now(),
            num_requests=self._num_finished,
            num_prompt_tokens=self.workload.num_prompt_tokens,
            num_output_tokens=self.workload.num_output_tokens,
            steady_seconds=steady[0],
            steady_prompt_tokens=steady[1],
            steady_output_tokens=steady[2],
            num_steps=statistics.num_steps,
            mean_batch_tokens=statistics.num_batched_tokens / max(1, statistics.num_steps),
            statistics=statistics,
            accuracy=self.estimator.accuracy,
        )


def simulate(settings: SimulationSettings, workload: Workload) -> SimulationResult:
    """Raises RequestError if a request can never run in these tiers."""
    return Simulation(settings, workload).run()


def link_speeds(node: NodeProfile) -> LinkSpeeds:
    """Of one stage, all of them copying."""
    link, host = node.link, node.host
    sharers = min(link.gpus_per_uplink, node.num_gpus)
    return LinkSpeeds(
        host_to_device=link.host_to_device_bytes_per_second / sharers,
        device_to_host=link.device_to_host_bytes_per_second / sharers,
        host_to_nvme=host.nvme_write_bytes_per_second / node.num_gpus,
        nvme_to_host=host.nvme_read_bytes_per_second / node.num_gpus,
        host_share=host.copy_bytes_per_second / node.num_gpus,
    )


def hop_speed(settings: SimulationSettings) -> HopSpeed:
    """Of hidden states from card to card."""
    link = settings.node.link
    return HopSpeed(
        latency_seconds=link.hop_latency_seconds,
        bytes_per_second=link.hop_bytes_per_second,
        bytes_per_token=settings.model.hidden_size * _HIDDEN_ELEMENT_BYTES,
    )
