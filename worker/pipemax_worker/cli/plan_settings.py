"""What a job would be on a node: its own settings, and those that a plan tries in their place."""

from __future__ import annotations

from pathlib import Path

from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.engine.config import SchedulerConfig
from pipemax_worker.engine.policies import POLICIES, WITHOUT_HOST_TIER
from pipemax_worker.errors import JobFileError
from pipemax_worker.job.inference_job import InferenceJob
from pipemax_worker.performance.node_profile import NodeProfile
from pipemax_worker.pipeline.settings import build_geometry
from pipemax_worker.planner.plan import Derive
from pipemax_worker.planner.plan_search import OURS, EngineChoice
from pipemax_worker.planner.simulation import SimulationSettings
from pipemax_worker.runner.sizing import SessionSettings, derive_session_settings


def deriver(job: InferenceJob, model: ModelConfig, node: NodeProfile) -> Derive:
    """``derive_simulation`` of this job on ``node``, for any choice."""
    return lambda choice: derive_simulation(job, model, node, choice)


def derive_simulation(
    job: InferenceJob, model: ModelConfig, node: NodeProfile, choice: EngineChoice | None = None
) -> SimulationSettings:
    """The job's own settings as they would be on ``node``, but for what ``choice`` says.

    Raises JobFileError, KVTierError.
    """
    choice = choice or EngineChoice(job.spec.engine.policy)
    session = _session(job, model, node, choice)
    geometry = build_geometry(session.pipeline, [node.gpu.memory_bytes] * node.num_gpus)
    scheduler = SchedulerConfig(
        geometry=geometry,
        num_micro_batches=session.num_micro_batches,
        max_batched_tokens=session.pipeline.max_batched_tokens,
        max_num_requests=session.pipeline.max_num_requests,
        max_num_running=session.max_num_running,
        run_ahead=session.run_ahead,
        prefix_sharing=False,
        growth_reserve_ratio=session.growth_reserve_ratio,
    )
    in_use = node.model_copy(update={"num_gpus": geometry.num_stages})
    return SimulationSettings(
        in_use,
        model,
        scheduler,
        choice.policy,
        session.pipeline.dtype,
        job.spec.engine.look_ahead,
    )


def _session(
    job: InferenceJob, model: ModelConfig, node: NodeProfile, choice: EngineChoice
) -> SessionSettings:
    """What our engine does not know by name is given what ours would be."""
    engine = job.spec.engine
    chosen: dict[str, object] = {"device": node.device}
    chosen["policy"] = choice.policy if choice.policy in POLICIES else OURS
    if choice.max_batched_tokens is not None:
        chosen["max_batched_tokens"] = choice.max_batched_tokens
    if choice.num_micro_batches is not None:
        chosen["micro_batches"] = choice.num_micro_batches
    if choice.kv_dtype is not None:
        chosen["kv_dtype"] = choice.kv_dtype
    kv_cache = job.spec.kv_cache
    if not choice.has_host_tier or choice.policy in WITHOUT_HOST_TIER:
        kv_cache = kv_cache.model_copy(update={"host": 0, "nvme": None})
    parallelism = job.spec.parallelism
    if node.device == "cpu" and (parallelism.stages_per_node or 0) > node.num_gpus:
        raise JobFileError(
            f"spec.parallelism.stagesPerNode: found {parallelism.stages_per_node}, but the profile "
            f"says how fast each of {node.num_gpus} stages is; measure with --detect --stages "
            f"{parallelism.stages_per_node}"
        )
    if node.device == "cpu" and parallelism.stages_per_node is None:
        parallelism = parallelism.model_copy(update={"stages_per_node": node.num_gpus})
    spec = job.spec.model_copy(
        update={
            "engine": engine.model_copy(update=chosen),
            "kv_cache": kv_cache,
            "parallelism": parallelism,
        }
    )
    return derive_session_settings(spec, model, Path(), None, node.num_gpus)
