"""From a benchmark's options to session settings: those that a job with these fields would get."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from pipemax_worker.contract.geometry import KVGeometry
from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.engine.policies import WITHOUT_HOST_TIER
from pipemax_worker.job.spec import InferenceJobSpec
from pipemax_worker.pipeline.gpus import count_gpus, gpu_memory_bytes
from pipemax_worker.pipeline.settings import build_geometry
from pipemax_worker.runner.bench_work import BenchWork
from pipemax_worker.runner.sizing import SessionSettings, derive_session_settings

ROTATION_MICRO_BATCHES = 8
LIVE_KV_PER_DEVICE_KV = 4
"""In the rotation benchmark: KV of all micro-batches over what the device tier holds."""

_ENGINE_FIELDS = {
    "micro_batches": "microBatches",
    "max_batched_tokens": "maxBatchedTokens",
    "max_num_requests": "maxNumRequests",
    "device_kv_bytes": "deviceKvCache",
    "memory_fraction": "memoryFraction",
    "block_tokens": "blockTokens",
    "kv_dtype": "kvDtype",
    "policy": "policy",
}


class BenchOptions(msgspec.Struct, frozen=True):
    """What the command line says. None: what a job gets that leaves the field out.

    stages       numbers of stages to measure, the first of which is compared with others.
    rounds       times that everything is measured, in turns.
    rotation     measure a device tier of a quarter of the KV instead.
    policies     measure these, in turns, in the same processes.
    run_ahead    schedule requests while their tokens are in flight; None: the default.
    workload     a file of lengths and seeds, in place of prompts or random work.
    hidden_max_tokens     what the scheduler is told of every output's length.
    dummy_weights_seed    random weights of the model's shape, in place of its own.
    memory_limit_bytes    most that a stage may take of its GPU.
    layers_per_stage      of as many stages as it names.
    stages_per_gpu        so many neighbouring stages share a GPU.
    uses_nccl             between GPUs; else host memory.
    """

    model_folder: Path
    prompts: Path | None = None
    num_requests: int | None = None
    seed: int = 0
    stages: tuple[int, ...] = (1,)
    rounds: int = 2
    against: tuple[str, ...] = ()
    rotation: bool = False
    policies: tuple[str, ...] = ()
    micro_batches: int | None = None
    max_batched_tokens: int | None = None
    max_num_requests: int | None = None
    device_kv_bytes: int | None = None
    host_kv_bytes: int | None = None
    run_ahead: bool | None = None
    workload: Path | None = None
    hidden_max_tokens: int | None = None
    dummy_weights_seed: int | None = None
    memory_limit_bytes: int | None = None
    memory_fraction: float | None = None
    block_tokens: int | None = None
    kv_dtype: str | None = None
    layers_per_stage: tuple[int, ...] | None = None
    stages_per_gpu: int = 1
    uses_nccl: bool = True
    policy: str | None = None


def build_settings(
    options: BenchOptions, config: ModelConfig, num_stages: int, micro_batches: int | None = None
) -> SessionSettings:
    """Raises JobFileError for sizes that no job may have."""
    engine = {
        field: value
        for name, field in _ENGINE_FIELDS.items()
        if (value := getattr(options, name)) is not None
    }
    if micro_batches is not None:
        engine["microBatches"] = micro_batches
    document: dict[str, Any] = {
        "model": {"uri": str(options.model_folder)},
        "input": {"uri": "bench.jsonl"},
        "output": {"uri": "bench"},
        "engine": engine,
        "parallelism": {"stagesPerNode": num_stages},
    }
    if options.layers_per_stage is not None and len(options.layers_per_stage) == num_stages:
        document["parallelism"]["layersPerStage"] = list(options.layers_per_stage)
    if options.host_kv_bytes is not None:
        document["kvCache"] = {"host": options.host_kv_bytes}
    spec = InferenceJobSpec.model_validate(document)
    settings = derive_session_settings(spec, config, options.model_folder, None, count_gpus())
    pipeline = msgspec.structs.replace(
        settings.pipeline,
        dummy_weights_seed=options.dummy_weights_seed,
        memory_limit_bytes=options.memory_limit_bytes,
        stages_per_gpu=options.stages_per_gpu,
        uses_nccl=options.uses_nccl,
    )
    settings = msgspec.structs.replace(settings, pipeline=pipeline)
    if options.run_ahead is not None:
        settings = msgspec.structs.replace(settings, run_ahead=options.run_ahead)
    return settings


def micro_batches_of(policy: str, num_stages: int, rotating: int | None) -> int | None:
    """``rotating``: of those with a host tier. One without gets nothing from more micro-batches
    than stages."""
    return num_stages if policy in WITHOUT_HOST_TIER else rotating


def of_policies(
    options: BenchOptions, config: ModelConfig, num_stages: int
) -> dict[str, SessionSettings]:
    """By policy: what a job that names it gets; ``micro_batches`` is for those that rotate."""
    return {
        policy: build_settings(
            msgspec.structs.replace(options, policy=policy),
            config,
            num_stages,
            micro_batches_of(policy, num_stages, options.micro_batches),
        )
        for policy in options.policies
    }


def around(settings: Iterable[SessionSettings]) -> SessionSettings:
    """Those of a pipeline that serves all of ``settings``: the widest tiers and buffers."""
    first, *others = settings
    pipeline = msgspec.structs.replace(
        first.pipeline,
        **{
            field: max(getattr(one.pipeline, field) for one in (first, *others))
            for field in ("host_kv_bytes", "nvme_kv_bytes", "max_num_requests")
        },
    )
    return msgspec.structs.replace(first, pipeline=pipeline)


def with_roomy_tiers(settings: SessionSettings, work: BenchWork) -> SessionSettings:
    """The KV of all requests fits the device tier, and the host tier too."""
    num_blocks = work.num_blocks(settings.pipeline.block_tokens) + len(work)
    return with_device_blocks(settings, num_blocks, num_blocks)


def with_device_blocks(
    settings: SessionSettings, num_device_blocks: int, num_host_blocks: int
) -> SessionSettings:
    """Tiers of exactly so many blocks."""
    shape = _shape(settings)
    largest_slot = max(shape.slot_bytes(stage) for stage in range(shape.num_stages))
    pipeline = msgspec.structs.replace(
        settings.pipeline,
        device_kv_bytes=num_device_blocks * largest_slot,
        host_kv_bytes=num_host_blocks * shape.block_bytes(),
    )
    return msgspec.structs.replace(settings, pipeline=pipeline)


def quarter_blocks(num_live_blocks: int, settings: SessionSettings, work: BenchWork) -> int:
    """The device tier of the rotation benchmark: a quarter of the KV in flight, but no less than
    the longest request and as much again to load the next one beside it."""
    least = 2 * work.longest_blocks(settings.pipeline.block_tokens)
    return max(least, -(-num_live_blocks // LIVE_KV_PER_DEVICE_KV))


def _shape(settings: SessionSettings) -> KVGeometry:
    """The sizes of a slot; any device tier that holds one block will do to ask for them."""
    pipeline = msgspec.structs.replace(settings.pipeline, device_kv_bytes=1 << 40)
    return build_geometry(pipeline, gpu_memory_bytes())
