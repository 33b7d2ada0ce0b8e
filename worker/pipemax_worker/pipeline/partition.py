"""How many layers each stage gets: a model's costs by its shape, for ``layer_split``. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pipemax_worker.contract.geometry import KV_DTYPE_BYTES
from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.contract.weights import host_embedding_bytes
from pipemax_worker.pipeline.layer_split import SplitCosts, split_layers


def derive_split_costs(
    config: ModelConfig,
    head_share: float = 1.0,
    dtype: str = "bfloat16",
    kv_dtype: str = "bfloat16",
    device: str = "cpu",
) -> SplitCosts:
    """Of a model that is cut. Times in the unit of reading one byte: a decode step takes as long as
    it takes to read its weights and its KV once.

    ``head_share``: of the LM head's time by its size. 1 where a step's time is that of reading;
    less where time goes with the rows, of which the head sees only those that are sampled.
    ``device``: of the stages, ``cpu`` or ``cuda``.
    """
    element_bytes = KV_DTYPE_BYTES[dtype]
    layers = range(config.num_hidden_layers)
    layer_bytes = tuple(config.stored_layer_parameters(n) * element_bytes for n in layers)
    mlp_bytes = tuple(config.stored_mlp_parameters(n) * element_bytes for n in layers)
    table_bytes = config.embedding_parameters * element_bytes
    on_host = host_embedding_bytes(config, dtype, device, is_only_stage=False)
    kv_bytes = config.kv_bytes_per_token_and_layer_element * KV_DTYPE_BYTES[kv_dtype]
    return SplitCosts(
        layer_bytes=layer_bytes,
        layer_seconds=tuple(map(float, layer_bytes)),
        kv_bytes_per_token=kv_bytes,
        kv_seconds_per_token=float(kv_bytes),
        embedding_bytes=table_bytes - on_host,
        head_bytes=table_bytes,
        head_seconds=head_share * table_bytes,
        mlp_bytes=mlp_bytes,
    )


def partition_layers(
    config: ModelConfig,
    num_stages: int,
    head_share: float = 1.0,
    room_bytes: Sequence[int] | None = None,
    dtype: str = "bfloat16",
    kv_dtype: str = "bfloat16",
) -> tuple[int, ...]:
    """As ``split_layers`` says, by the model's shape.

    Raises UnsupportedModelError if there are more stages than layers.
    """
    costs = derive_split_costs(config, head_share, dtype, kv_dtype)
    return split_layers(costs, num_stages, room_bytes)
