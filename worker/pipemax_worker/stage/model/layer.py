"""The two halves of a decoder layer: attention, and an MLP or experts, each behind an RMSNorm and
with a residual. A stage may end between them; the next one begins with the second half then.

The model families differ in biases, QK norm, sliding window and experts alone, and all of these are
read from :class:`ModelConfig`; so there is one layer for all.
"""

from __future__ import annotations

import torch

from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.stage.model.checkpoint import WeightSource
from pipemax_worker.stage.model.kernels import AttentionShape, Kernels, QKNorm
from pipemax_worker.stage.model.linear import Linear, read_linear
from pipemax_worker.stage.model.mlp import read_feed_forward

WITH_RESIDUAL = frozenset({"output", "down"})
"""Matrices whose product is added to a residual."""


class AttentionBlock:
    """The attention of layer ``index`` of the model. Reads its weights when built."""

    def __init__(self, config: ModelConfig, weights: WeightSource, index: int) -> None:
        self._eps = config.rms_norm_eps
        self._shape = AttentionShape(
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            config.sliding_windows[index],
        )
        prefix = f"model.layers.{index}."
        hidden = config.hidden_size
        self._norm = weights.read(prefix + "input_layernorm.weight", hidden)
        self._qk_norm = _read_qk_norm(config, weights, prefix + "self_attn.")
        self._qkv = _read_qkv(config, weights, prefix + "self_attn.")
        self._output = read_linear(
            weights,
            {prefix + "self_attn.o_proj": hidden},
            config.num_attention_heads * config.head_dim,
            config.has_output_bias,
        )

    @property
    def matrices(self) -> dict[str, Linear]:
        """Those that every row goes through, by what they are for."""
        return {"qkv": self._qkv, "output": self._output}

    @property
    def weight_bytes(self) -> int:
        parts = (self._qkv, self._output)
        norms = [self._norm]
        if self._qk_norm is not None:
            norms += [self._qk_norm.query, self._qk_norm.key]
        return sum(part.weight_bytes for part in parts) + sum(norm.nbytes for norm in norms)

    def __call__(self, hidden: torch.Tensor, kv: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """``hidden`` [num_tokens, hidden] -> the same shape. Appends the new tokens' keys and
        values to ``kv`` [num_slots, 2, block_tokens, num_kv_heads, head_dim], then attends."""
        normed = kernels.rms_norm(hidden, self._norm, self._eps)
        qkv = self._qkv(normed)  # [num_tokens, (num_heads + 2 num_kv_heads) head_dim]
        kernels.rotate_and_append(qkv, self._qk_norm, kv, self._shape)
        attended = kernels.attention(qkv, kv, self._shape)
        return self._output(attended, residual=hidden)


class FeedForwardBlock:
    """What follows the attention in layer ``index`` of the model. Reads its weights when built."""

    def __init__(self, config: ModelConfig, weights: WeightSource, index: int) -> None:
        self._eps = config.rms_norm_eps
        name = f"model.layers.{index}.post_attention_layernorm.weight"
        self._norm = weights.read(name, config.hidden_size)
        self._feed_forward = read_feed_forward(config, weights, index)

    @property
    def matrices(self) -> dict[str, Linear]:
        """Those that every row goes through, by what they are for."""
        return self._feed_forward.matrices

    @property
    def weight_bytes(self) -> int:
        return self._norm.nbytes + self._feed_forward.weight_bytes

    def __call__(self, hidden: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """``hidden`` [num_tokens, hidden] -> the same shape."""
        normed = kernels.rms_norm(hidden, self._norm, self._eps)
        return self._feed_forward(normed, hidden, kernels)


def _read_qkv(config: ModelConfig, weights: WeightSource, prefix: str) -> Linear:
    num_query_rows = config.num_attention_heads * config.head_dim
    num_kv_rows = config.num_key_value_heads * config.head_dim
    rows = {
        prefix + "q_proj": num_query_rows,
        prefix + "k_proj": num_kv_rows,
        prefix + "v_proj": num_kv_rows,
    }
    return read_linear(weights, rows, config.hidden_size, config.has_qkv_bias)


def _read_qk_norm(config: ModelConfig, weights: WeightSource, prefix: str) -> QKNorm | None:
    if not config.has_qk_norm:
        return None
    query = weights.read(prefix + "q_norm.weight", config.head_dim)
    key = weights.read(prefix + "k_norm.weight", config.head_dim)
    return QKNorm(query, key, config.rms_norm_eps)
