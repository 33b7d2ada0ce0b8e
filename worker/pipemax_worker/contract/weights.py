"""What a model's weights take of memory, and of which. Pure."""

from __future__ import annotations

from pipemax_worker.contract.geometry import KV_DTYPE_BYTES
from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.contract.model_cut import ModelCut


def layer_parameters(config: ModelConfig, cut: ModelCut, stage: int) -> int:
    """Of the matrices of a stage's layers, all experts' included."""
    layers = cut.layers(stage)
    mlp_parameters = sum(map(config.stored_mlp_parameters, layers.mlp))
    return len(layers.attention) * config.attention_parameters + mlp_parameters


def weight_bytes(config: ModelConfig, cut: ModelCut, stage: int, dtype: str) -> int:
    """Bytes of a stage's matrices, wherever they lie; tied embeddings are held by both ends."""
    is_first, is_last = stage == 0, stage == cut.num_stages - 1
    num_tables = is_first + is_last
    if is_first and is_last and config.tie_word_embeddings:
        num_tables = 1
    parameters = layer_parameters(config, cut, stage) + num_tables * config.embedding_parameters
    return parameters * KV_DTYPE_BYTES[dtype]


def has_host_embedding(config: ModelConfig, device: str, *, is_only_stage: bool) -> bool:
    """Whether the first stage's embedding lies in host memory, where a GPU looks its rows up.

    A step reads one row a token of it, so it need not take room from KV. Where an LM head on the
    same stage is the same table it stays on the GPU, which multiplies with all of it. ``device``:
    ``cpu`` or ``cuda``.
    """
    return device == "cuda" and not (is_only_stage and config.tie_word_embeddings)


def host_embedding_bytes(
    config: ModelConfig, dtype: str, device: str, *, is_only_stage: bool
) -> int:
    """0 where :func:`has_host_embedding` says that it is on the device."""
    if not has_host_embedding(config, device, is_only_stage=is_only_stage):
        return 0
    return config.embedding_parameters * KV_DTYPE_BYTES[dtype]


def device_weight_bytes(
    config: ModelConfig, cut: ModelCut, stage: int, dtype: str, device: str
) -> int:
    """Of :func:`weight_bytes`, those in the memory of the stage's device: ``cpu`` or ``cuda``."""
    num_bytes = weight_bytes(config, cut, stage, dtype)
    if stage > 0:
        return num_bytes
    return num_bytes - host_embedding_bytes(
        config, dtype, device, is_only_stage=cut.num_stages == 1
    )
