"""What each stage of a model holds and computes, from the model's shape. Pure."""

from __future__ import annotations

from pipemax_worker.contract.geometry import KV_DTYPE_BYTES, KVGeometry
from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.contract.weights import layer_parameters
from pipemax_worker.performance.experts import derive_experts
from pipemax_worker.performance.step_cost import StageCost


def derive_stage_costs(config: ModelConfig, geometry: KVGeometry, dtype: str) -> list[StageCost]:
    """One a stage. The embedding is looked up, not multiplied: it costs room and no time. (From
    host memory 256 rows of seven kilobytes are some 0.1 ms.)"""
    last = geometry.num_stages - 1
    return [
        _stage_cost(config, geometry, stage, dtype, has_head=stage == last)
        for stage in range(geometry.num_stages)
    ]


def _stage_cost(
    config: ModelConfig, geometry: KVGeometry, stage: int, dtype: str, *, has_head: bool
) -> StageCost:
    num_layers = geometry.layers_of_stage[stage]
    num_layer_parameters = layer_parameters(config, geometry.cut, stage)
    num_head_parameters = config.embedding_parameters if has_head else 0
    experts = derive_experts(config, geometry.cut.layers(stage).mlp)
    num_expert_parameters = experts.num_parameters if experts is not None else 0
    return StageCost(
        weight_bytes=(num_layer_parameters + num_head_parameters) * KV_DTYPE_BYTES[dtype],
        num_parameters=num_layer_parameters - num_expert_parameters,
        kv_bytes_per_token=geometry.payload_bytes(stage) // geometry.block_tokens,
        num_head_parameters=num_head_parameters,
        attention_width=num_layers * config.num_attention_heads * config.head_dim,
        num_layers=num_layers,
        experts=experts,
    )
