"""The experts of a Mixtral or Qwen3-MoE, from its ``config.json``. Pure."""

from __future__ import annotations

import msgspec

from pipemax_worker.contract.model_config import ModelConfig


class MixtureShape(msgspec.Struct, frozen=True):
    """Which layers have experts, how many, and of what size.

    expert_parameters   of one expert's three matrices.
    sparse_step         every so many layers one has experts, but for ``dense_layers``.
    """

    num_experts: int
    experts_per_token: int
    expert_parameters: int
    sparse_step: int = 1
    dense_layers: frozenset[int] = frozenset()

    def is_sparse(self, layer: int) -> bool:
        return layer not in self.dense_layers and (layer + 1) % self.sparse_step == 0


def mixture_shape(config: ModelConfig) -> MixtureShape | None:
    """None for a dense model. Field names are Hugging Face's own: Mixtral's experts are as wide as
    its ``intermediate_size``, Qwen3-MoE's have a width of their own."""
    raw = config.raw
    num_experts = raw.get("num_local_experts") or raw.get("num_experts") or 0
    if not num_experts:
        return None
    width = raw.get("moe_intermediate_size") or config.intermediate_size
    return MixtureShape(
        num_experts=num_experts,
        experts_per_token=raw["num_experts_per_tok"],
        expert_parameters=3 * config.hidden_size * width,
        sparse_step=raw.get("decoder_sparse_step") or 1,
        dense_layers=frozenset(raw.get("mlp_only_layers") or ()),
    )
