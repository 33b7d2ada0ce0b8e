"""From what a job says, and what it leaves open, to the settings of a pipeline. Pure."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.engine.policies import WITHOUT_HOST_TIER
from pipemax_worker.errors import JobFileError
from pipemax_worker.job.spec import InferenceJobSpec
from pipemax_worker.pipeline.settings import PipelineSettings

CPU_MAX_BATCHED_TOKENS = 256
CUDA_MAX_BATCHED_TOKENS = 512
CPU_ROWS_PER_STEP = 64
CUDA_ROWS_PER_STEP = 256


class SessionSettings(msgspec.Struct, frozen=True):
    """A pipeline and how its engine schedules.

    max_num_running       sequences that hold KV at a time, all micro-batches together.
    run_ahead             schedule requests while their tokens are in flight: the driver takes
                          longer for a message than a GPU waits gladly.
    growth_reserve_ratio  share of the expected output that is reserved at admission, whatever the
                          forecast of all that runs says; 0: the forecast alone decides.
    step_timeout_seconds  silence of all stages after which one hangs; None: wait for ever.
    """

    pipeline: PipelineSettings
    num_micro_batches: int
    policy: str
    prefix_sharing: bool
    max_num_running: int
    run_ahead: bool = False
    growth_reserve_ratio: float = 0.0
    step_timeout_seconds: float | None = None


def choose_device(wanted: str, num_gpus: int) -> str:
    """``cpu`` or ``cuda``. Raises JobFileError where GPUs are wanted and none is seen."""
    if wanted == "auto":
        return "cuda" if num_gpus else "cpu"
    if wanted == "cuda" and not num_gpus:
        raise JobFileError(
            "spec.engine.device: found 'cuda', but no GPU is visible here; use auto or cpu"
        )
    return wanted


def choose_dtype(wanted: str, config: ModelConfig, device: str) -> str:
    """``auto``: the checkpoint's own type on a GPU (bfloat16 for float32 ones, whose twice the
    bytes buy nothing there), float32 on a CPU, where the narrow types are slower."""
    if wanted != "auto":
        return wanted
    if device == "cpu":
        return "float32"
    return config.torch_dtype if config.torch_dtype in ("bfloat16", "float16") else "bfloat16"


def derive_session_settings(
    spec: InferenceJobSpec,
    config: ModelConfig,
    model_folder: Path,
    nvme_folder: Path | None,
    num_gpus: int,
) -> SessionSettings:
    """Fill in what the job leaves open. Raises JobFileError."""
    engine = spec.engine
    device = choose_device(engine.device, num_gpus)
    num_stages = spec.parallelism.num_stages or (num_gpus if device == "cuda" else 1)
    num_micro_batches = engine.micro_batches or num_stages
    dtype = choose_dtype(spec.model.dtype, config, device)
    rows = CPU_ROWS_PER_STEP if device == "cpu" else CUDA_ROWS_PER_STEP
    max_num_running = engine.max_num_requests or rows * num_micro_batches
    tokens = CPU_MAX_BATCHED_TOKENS if device == "cpu" else CUDA_MAX_BATCHED_TOKENS
    # Nothing hinders one micro-batch from holding all requests, at the start or at the end.
    rows_per_step = min(max_num_running, max(rows, -(-max_num_running // num_micro_batches)))
    max_batched_tokens = max(engine.max_batched_tokens or tokens, 1)
    nvme = spec.kv_cache.nvme
    has_host_tier = engine.policy not in WITHOUT_HOST_TIER
    pipeline = PipelineSettings(
        model_folder=model_folder,
        model_config=config,
        num_stages=num_stages,
        dtype=dtype,
        kv_dtype=dtype if engine.kv_dtype == "auto" else engine.kv_dtype,
        block_tokens=engine.block_tokens,
        max_batched_tokens=max_batched_tokens,
        max_num_requests=min(rows_per_step, max_batched_tokens),
        host_kv_bytes=spec.kv_cache.host if has_host_tier else 0,
        nvme_kv_bytes=nvme.size if nvme is not None and has_host_tier else 0,
        nvme_folder=nvme_folder,
        device=device,
        device_kv_bytes=engine.device_kv_cache,
        memory_fraction=engine.memory_fraction,
        layers_of_stage=_check_layers(spec.parallelism.layers_per_stage, config),
    )
    return SessionSettings(
        pipeline=pipeline,
        num_micro_batches=num_micro_batches,
        policy=engine.policy,
        prefix_sharing=engine.prefix_sharing,
        max_num_running=max_num_running,
        run_ahead=device == "cuda",
        step_timeout_seconds=engine.step_timeout,
    )


def _check_layers(
    layers_per_stage: tuple[int, ...] | None, config: ModelConfig
) -> tuple[int, ...] | None:
    """The job's own split. Raises JobFileError if it is one of another model."""
    if layers_per_stage is not None and sum(layers_per_stage) != config.num_hidden_layers:
        raise JobFileError(
            f"spec.parallelism.layersPerStage: found {sum(layers_per_stage)} layers in all, "
            f"expected {config.num_hidden_layers}, which the model has"
        )
    return layers_per_stage
