"""What each stage of a model holds and computes, from the model's shape. Pure."""

from __future__ import annotations

from pipemax_worker.contract.geometry import KV_DTYPE_BYTES, KVGeometry
from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.performance.experts import ExpertLayers
from pipemax_worker.performance.step_cost import StageCost
from pipemax_worker.planner.mixture import MixtureShape, mixture_shape


def derive_stage_costs(config: ModelConfig, geometry: KVGeometry, dtype: str) -> list[StageCost]:
    """One a stage. The embedding is looked up, not multiplied: it costs room and no time."""
    last = geometry.num_stages - 1
    return [
        _stage_cost(config, geometry, stage, dtype, has_head=stage == last)
        for stage in range(geometry.num_stages)
    ]


def _stage_cost(
    config: ModelConfig, geometry: KVGeometry, stage: int, dtype: str, *, has_head: bool
) -> StageCost:
    num_layers = geometry.layers_of_stage[stage]
    first = sum(geometry.layers_of_stage[:stage])
    mixture = mixture_shape(config)
    num_parameters, experts = num_layers * config.layer_parameters, None
    if mixture is not None:
        num_parameters, experts = _mixed_layers(config, mixture, range(first, first + num_layers))
    num_head_parameters = config.embedding_parameters if has_head else 0
    num_held = num_parameters + num_head_parameters + (experts.num_parameters if experts else 0)
    return StageCost(
        weight_bytes=num_held * KV_DTYPE_BYTES[dtype],
        num_parameters=num_parameters,
        kv_bytes_per_token=geometry.payload_bytes(stage) // geometry.block_tokens,
        num_head_parameters=num_head_parameters,
        attention_width=num_layers * config.num_attention_heads * config.head_dim,
        num_layers=num_layers,
        experts=experts,
    )


def _mixed_layers(
    config: ModelConfig, mixture: MixtureShape, layers: range
) -> tuple[int, ExpertLayers | None]:
    """(parameters that every token is multiplied with, the experts' own)."""
    num_sparse = sum(map(mixture.is_sparse, layers))
    num_dense = len(layers) - num_sparse
    num_parameters = len(layers) * config.attention_parameters
    num_parameters += num_dense * 3 * config.hidden_size * config.intermediate_size
    num_parameters += num_sparse * config.hidden_size * mixture.num_experts  # the router
    if not num_sparse:
        return num_parameters, None
    num_expert_parameters = num_sparse * mixture.num_experts * mixture.expert_parameters
    return num_parameters, ExpertLayers(
        num_expert_parameters, mixture.num_experts, mixture.experts_per_token
    )
