"""From the sizes that a job gives to the configurations of its stages. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from pipemax_worker.contract.geometry import KV_DTYPE_BYTES, KVGeometry
from pipemax_worker.contract.messages import StageConfig
from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.contract.model_cut import ModelCut
from pipemax_worker.contract.weights import device_weight_bytes
from pipemax_worker.errors import KVTierError, StageDiedError
from pipemax_worker.pipeline.cores import available_cores
from pipemax_worker.pipeline.layer_split import SplitCosts, cut_model
from pipemax_worker.pipeline.partition import derive_split_costs

CPU_DEVICE_KV_BYTES = 1 << 30
"""Device tier of all stages together on a CPU, where no memory is the device's own."""

CPU_HEAD_SHARE = 0.5
"""Of the LM head's cost in the split of layers: a CPU's time goes with the rows, and of those of a
mixed step about half or less are sampled; a head's row takes no attention either."""

CUDA_RESERVE_BYTES = 1 << 30
"""On each GPU for the CUDA context, cuBLAS workspaces, NCCL and fragmentation."""

_GIB = float(1 << 30)


class PipelineSettings(msgspec.Struct, frozen=True):
    """What a pipeline is to be.

    device               ``cpu`` or ``cuda``: stage k computes on ``cuda:k``.
    memory_fraction      share of a GPU for weights, buffers and KV together.
    memory_limit_bytes   most bytes a stage may take of its GPU, or None: all.
    device_kv_bytes      device tier of each stage; None: what the fraction leaves on a GPU,
                         ``CPU_DEVICE_KV_BYTES`` for all stages together on a CPU.
    host_kv_bytes        host tier of all stages together; likewise ``nvme_kv_bytes``.
    nvme_folder          exists; None: no NVMe tier.
    dummy_weights_seed   random weights of this seed; None: those in ``model_folder``.
    adopts_nvme_files    ``nvme_folder`` holds KV files that an earlier run has parked.
    layers_of_stage      how the model is cut; None: by cost (``layer_split``). Then
                         ``mlp_left_by_stage`` says where within layers (``ModelCut``).
    stages_per_gpu       so many neighbouring stages share a GPU, each with its part of the memory:
                         to measure many stages on few cards.
    uses_nccl            of links between GPUs; else hidden states go through host memory.
    """

    model_folder: Path
    model_config: ModelConfig
    num_stages: int
    dtype: str
    kv_dtype: str
    block_tokens: int
    max_batched_tokens: int
    max_num_requests: int
    host_kv_bytes: int
    nvme_kv_bytes: int = 0
    nvme_folder: Path | None = None
    device: str = "cpu"
    device_kv_bytes: int | None = None
    memory_fraction: float = 0.92
    memory_limit_bytes: int | None = None
    dummy_weights_seed: int | None = None
    adopts_nvme_files: bool = False
    layers_of_stage: tuple[int, ...] | None = None
    mlp_left_by_stage: tuple[bool, ...] = ()
    stages_per_gpu: int = 1
    uses_nccl: bool = True


def build_geometry(settings: PipelineSettings, gpu_memory_bytes: Sequence[int] = ()) -> KVGeometry:
    """Split the layers and divide each tier's bytes into slots.

    All stages have the same number of slots, so the tightest stage decides. ``gpu_memory_bytes`` is
    each visible GPU's. Raises UnsupportedModelError (more stages than layers), StageDiedError
    (more stages than GPUs) and KVTierError (no room for a single slot).
    """
    config = settings.model_config
    gpu_memory_bytes = _memory_of_stages(settings, gpu_memory_bytes)
    cut = _choose_cut(settings, gpu_memory_bytes)
    empty = KVGeometry(
        block_tokens=settings.block_tokens,
        kv_dtype=settings.kv_dtype,
        num_kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        layers_of_stage=cut.layers_of_stage,
        num_device_slots=0,
        num_host_slots=0,
        num_nvme_slots=0,
        mlp_left_by_stage=cut.mlp_left_by_stage,
    )
    device_bytes = _device_kv_bytes(settings, empty, gpu_memory_bytes)
    nvme_bytes = settings.nvme_kv_bytes if settings.nvme_folder is not None else 0
    geometry = msgspec.structs.replace(
        empty,
        num_device_slots=min(
            num_bytes // empty.slot_bytes(stage) for stage, num_bytes in enumerate(device_bytes)
        ),
        num_host_slots=settings.host_kv_bytes // empty.block_bytes(),
        num_nvme_slots=nvme_bytes // empty.block_bytes(),
    )
    if geometry.num_device_slots < 1:
        raise KVTierError(
            f"the device tier holds no block: a block of {settings.block_tokens} tokens takes up "
            f"to {max(map(empty.slot_bytes, range(empty.num_stages)))} bytes on a stage, and there "
            f"are {min(device_bytes)}; raise engine.deviceKvCache or lower engine.blockTokens"
        )
    return geometry


def _memory_of_stages(settings: PipelineSettings, gpu_memory_bytes: Sequence[int]) -> list[int]:
    """Each visible GPU's share for each of the stages that share it."""
    shares = settings.stages_per_gpu
    return [num_bytes // shares for num_bytes in gpu_memory_bytes for _ in range(shares)]


def _choose_cut(settings: PipelineSettings, gpu_memory_bytes: Sequence[int]) -> ModelCut:
    """On GPUs whose memory is what KV has room in, by that room too."""
    if settings.layers_of_stage is not None:
        return ModelCut(settings.layers_of_stage, settings.mlp_left_by_stage)
    stages = range(settings.num_stages)
    is_cuda = settings.device == "cuda"
    room_bytes = None
    if is_cuda and settings.device_kv_bytes is None and len(gpu_memory_bytes) >= len(stages):
        room_bytes = [_room_without_weights(settings, s, gpu_memory_bytes[s]) for s in stages]
    return cut_model(split_costs(settings), settings.num_stages, room_bytes)


def split_costs(settings: PipelineSettings) -> SplitCosts:
    """Of the model's parts, by their sizes, before anything is measured."""
    head_share = CPU_HEAD_SHARE if settings.device == "cpu" else 1.0
    return derive_split_costs(
        settings.model_config, head_share, settings.dtype, settings.kv_dtype, settings.device
    )


def build_stage_configs(
    settings: PipelineSettings, geometry: KVGeometry, num_cores: int | None = None
) -> tuple[StageConfig, ...]:
    """One configuration a stage, without addresses (``PipelineExecutor`` gives them).

    ``num_cores`` are shared by all stages; None: those this process may use.
    """
    num_cores = available_cores() if num_cores is None else num_cores
    is_cuda = settings.device == "cuda"
    has_nvme = settings.nvme_folder is not None and geometry.num_nvme_slots > 0
    return tuple(
        StageConfig(
            stage=stage,
            num_stages=settings.num_stages,
            model_folder=str(settings.model_folder),
            model_config=msgspec.msgpack.encode(settings.model_config),
            device=f"cuda:{stage // settings.stages_per_gpu}" if is_cuda else "cpu",
            dtype=settings.dtype,
            first_layer=sum(geometry.layers_of_stage[:stage]),
            geometry=msgspec.msgpack.encode(geometry),
            nvme_path=str(settings.nvme_folder / f"stage-{stage}.kv")
            if settings.nvme_folder is not None and has_nvme
            else None,
            num_threads=max(1, num_cores // settings.num_stages),
            max_batched_tokens=settings.max_batched_tokens,
            max_num_requests=settings.max_num_requests,
            input_address="",
            event_address="",
            hidden_in_address=None,
            hidden_out_address=None,
            feedback_address=None,
            memory_limit_bytes=settings.memory_limit_bytes if is_cuda else None,
            dummy_weights_seed=settings.dummy_weights_seed,
            adopt_nvme_file=settings.adopts_nvme_files,
            uses_nccl=settings.uses_nccl,
        )
        for stage in range(settings.num_stages)
    )


def activation_bytes(settings: PipelineSettings, stage: int) -> int:
    """Most bytes of a forward's temporaries: the widest point of a layer with some tensors alive
    at once, and on the last stage float32 logits with a sorted copy of them."""
    config = settings.model_config
    width = 6 * config.hidden_size + _mlp_width(config)
    hidden = settings.max_batched_tokens * width * KV_DTYPE_BYTES[settings.dtype]
    is_last = stage == settings.num_stages - 1
    return hidden + (4 * 4 * settings.max_num_requests * config.vocab_size if is_last else 0)


def _mlp_width(config: ModelConfig) -> int:
    """Elements of a token's temporaries: gate, up and their product, with experts once for each
    that the token goes through, beside what that makes of it."""
    experts = config.experts
    if experts is None:
        return 3 * config.intermediate_size
    of_experts = experts.num_experts_per_tok * (3 * experts.intermediate_size + config.hidden_size)
    has_dense_layers = len(experts.layers) < config.num_hidden_layers
    return max(of_experts, 3 * config.intermediate_size if has_dense_layers else 0)


def _device_kv_bytes(
    settings: PipelineSettings, geometry: KVGeometry, gpu_memory_bytes: Sequence[int]
) -> list[int]:
    """Bytes for the device tier on each stage."""
    num_stages = settings.num_stages
    if settings.device == "cuda" and len(gpu_memory_bytes) < num_stages:
        raise StageDiedError(
            f"{num_stages} stages need as many GPUs, and {len(gpu_memory_bytes)} are visible; "
            "lower parallelism.stagesPerNode or set engine.device to cpu"
        )
    if settings.device_kv_bytes is not None:
        return [settings.device_kv_bytes] * num_stages
    if settings.device != "cuda":
        return [CPU_DEVICE_KV_BYTES // num_stages] * num_stages
    return [
        _room_on_gpu(settings, geometry, stage, gpu_memory_bytes[stage])
        for stage in range(num_stages)
    ]


def _room_on_gpu(
    settings: PipelineSettings, geometry: KVGeometry, stage: int, memory_bytes: int
) -> int:
    usable = _usable_bytes(settings, memory_bytes)
    weights = device_weight_bytes(
        settings.model_config, geometry.cut, stage, settings.dtype, settings.device
    )
    room = _room_without_weights(settings, stage, memory_bytes) - weights
    buffers = activation_bytes(settings, stage) + CUDA_RESERVE_BYTES
    if room < geometry.slot_bytes(stage):
        raise KVTierError(
            f"stage {stage}: weights of {weights / _GIB:.1f} GiB and buffers of "
            f"{buffers / _GIB:.1f} GiB leave no room for KV in {usable / _GIB:.1f} GiB of its GPU; "
            "use more stages, or lower engine.maxBatchedTokens or engine.maxNumRequests"
        )
    return room


def _usable_bytes(settings: PipelineSettings, memory_bytes: int) -> int:
    limit = min(memory_bytes, settings.memory_limit_bytes or memory_bytes)
    return int(limit * settings.memory_fraction)


def _room_without_weights(settings: PipelineSettings, stage: int, memory_bytes: int) -> int:
    """Of a stage's GPU, for weights and KV together."""
    buffers = activation_bytes(settings, stage) + CUDA_RESERVE_BYTES
    return _usable_bytes(settings, memory_bytes) - buffers
