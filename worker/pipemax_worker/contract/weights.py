"""What a model's weights take of memory. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pipemax_worker.contract.geometry import KV_DTYPE_BYTES
from pipemax_worker.contract.model_config import ModelConfig


def weight_bytes(
    config: ModelConfig, layers_of_stage: Sequence[int], stage: int, dtype: str
) -> int:
    """Bytes of a stage's matrices; tied embeddings are held by both ends."""
    is_first, is_last = stage == 0, stage == len(layers_of_stage) - 1
    num_tables = is_first + is_last
    if is_first and is_last and config.tie_word_embeddings:
        num_tables = 1
    first = sum(layers_of_stage[:stage])
    layers = range(first, first + layers_of_stage[stage])
    parameters = sum(map(config.stored_layer_parameters, layers))
    return (parameters + num_tables * config.embedding_parameters) * KV_DTYPE_BYTES[dtype]
