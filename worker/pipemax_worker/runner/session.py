"""A running engine with its pipeline: from settings to `Engine`, and its orderly end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from pipemax_worker.contract.clock import Clock, MonotonicClock
from pipemax_worker.contract.geometry import KVGeometry, Tier
from pipemax_worker.contract.messages import StageReady
from pipemax_worker.engine.config import SchedulerConfig
from pipemax_worker.engine.engine import Engine
from pipemax_worker.engine.policies import build_policy
from pipemax_worker.engine.scheduler import Scheduler
from pipemax_worker.kvcache.block_manager import BlockManager
from pipemax_worker.kvcache.eviction import CachedEviction
from pipemax_worker.performance.hardware import profile_for_device
from pipemax_worker.performance.link import LinkEstimator
from pipemax_worker.performance.roofline import RooflineEstimator
from pipemax_worker.performance.stage_costs import derive_stage_costs
from pipemax_worker.pipeline.executor import PipelineExecutor
from pipemax_worker.pipeline.gpus import gpu_memory_bytes
from pipemax_worker.pipeline.settings import (
    build_geometry,
    build_stage_configs,
)
from pipemax_worker.runner.sizing import SessionSettings
from pipemax_worker.runner.write_budget import BlockWrites, WriteBudget

COLLECT_TIMEOUT_SECONDS = 0.2
SETTLE_SECONDS = 60.0


@dataclass(frozen=True)
class Session:
    """``stages`` are what the stages said when they were ready."""

    engine: Engine
    geometry: KVGeometry
    stages: tuple[StageReady, ...]


@contextlib.contextmanager
def open_session(
    settings: SessionSettings,
    on_ready: Callable[[StageReady], None] | None = None,
    clock: Clock | None = None,
    on_wait: Callable[[], None] | None = None,
    write_budget: WriteBudget | None = None,
) -> Iterator[Session]:
    """Start the stages and the engine; stop them at the end, whatever happens.

    ``on_ready`` and ``on_wait`` as in ``PipelineExecutor.start``; ``write_budget`` of the NVMe
    tier, None: no limit.
    Raises KVTierError, UnsupportedModelError, ModelNotFoundError, StageDiedError.
    """
    pipeline = settings.pipeline
    geometry = build_geometry(pipeline, gpu_memory_bytes())
    executor = PipelineExecutor(build_stage_configs(pipeline, geometry))
    engine: Engine | None = None
    try:
        stages = executor.start(on_ready, on_wait)
        engine = Engine(
            executor,
            build_scheduler(settings, geometry, write_budget),
            clock or MonotonicClock(),
            COLLECT_TIMEOUT_SECONDS,
            settings.step_timeout_seconds,
        )
        yield Session(engine, geometry, stages)
    finally:
        if engine is not None and engine.deaths:
            executor.kill()
        executor.drain()


def change_settings(session: Session, settings: SessionSettings, whole: KVGeometry) -> Session:
    """The same stages, which have all tiers of ``whole``, under other settings: of the pipeline's
    only the tiers below the device may differ, and only be left out. The session that was is of no
    use then. Raises InvariantError if it has unfinished requests.
    """
    geometry = msgspec.structs.replace(
        whole,
        num_host_slots=whole.num_host_slots if settings.pipeline.host_kv_bytes else 0,
        num_nvme_slots=whole.num_nvme_slots if settings.pipeline.nvme_kv_bytes else 0,
    )
    engine = session.engine
    until = engine.clock.now() + SETTLE_SECONDS
    succeeding = engine.succeed(build_scheduler(settings, geometry), until)
    return Session(succeeding, geometry, session.stages)


def build_scheduler(
    settings: SessionSettings, geometry: KVGeometry, write_budget: WriteBudget | None = None
) -> Scheduler:
    """The deciding side alone, which needs no process."""
    pipeline = settings.pipeline
    config = SchedulerConfig(
        geometry=geometry,
        num_micro_batches=settings.num_micro_batches,
        max_batched_tokens=pipeline.max_batched_tokens,
        max_num_requests=pipeline.max_num_requests,
        max_num_running=settings.max_num_running,
        run_ahead=settings.run_ahead,
        prefix_sharing=settings.prefix_sharing,
        growth_reserve_ratio=settings.growth_reserve_ratio,
    )
    profile = profile_for_device(pipeline.device)
    costs = derive_stage_costs(pipeline.model_config, geometry, pipeline.dtype)
    writes = None if write_budget is None else BlockWrites(write_budget, geometry.block_bytes())
    num_slots = {tier: geometry.num_slots(tier) for tier in Tier}
    blocks = BlockManager(num_slots, geometry.num_stages, CachedEviction(), writes)
    return Scheduler(
        config,
        blocks,
        build_policy(settings.policy),
        RooflineEstimator(profile, costs),
        LinkEstimator(profile),
    )
