"""What a layer does besides matrix products, as a protocol, and the choice of who does it.

One ``Kernels`` object serves one step of one stage: it knows the micro-batch and its cosines and
sines, so that plans made from them (masks, tiles) are made once and shared by all layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from pipemax_worker.stage.model.experts import Experts


@dataclass(frozen=True)
class AttentionShape:
    """One layer's heads. ``window``: positions a token sees, itself included; None: all."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int | None

    @property
    def scale(self) -> float:
        return float(self.head_dim**-0.5)

    @property
    def num_query_columns(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def num_kv_columns(self) -> int:
        return self.num_kv_heads * self.head_dim


@dataclass(frozen=True)
class QKNorm:
    """RMSNorm weights over each head of the queries and keys (Qwen3)."""

    query: torch.Tensor  # [head_dim]
    key: torch.Tensor  # [head_dim]
    eps: float


class Kernels(Protocol):
    """``kv`` is one layer's part of the device tier: [num_slots, 2, block_tokens, num_kv_heads,
    head_dim], a strided view. ``qkv`` is [num_tokens, (num_heads + 2 num_kv_heads) head_dim]."""

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Root mean square norm over the last dimension, in float32 inside (arXiv 1910.07467)."""
        ...

    def rotate_and_append(
        self, qkv: torch.Tensor, qk_norm: QKNorm | None, kv: torch.Tensor, shape: AttentionShape
    ) -> None:
        """Norm (if any) and rotate queries in place; write keys, normed and rotated too, and values
        to ``kv``. What is in ``qkv`` of keys and values afterwards is not said."""
        ...

    def attention(self, qkv: torch.Tensor, kv: torch.Tensor, shape: AttentionShape) -> torch.Tensor:
        """Causal attention of every new token over its own request: [num_tokens, num_heads
        head_dim]. Reads from ``qkv`` the queries alone; keys and values come from ``kv``."""
        ...

    def silu_and_multiply(self, gate_up: torch.Tensor) -> torch.Tensor:
        """[num_tokens, 2 width] -> silu(first half) times second half, [num_tokens, width]."""
        ...

    def mix_experts(
        self, x: torch.Tensor, experts: Experts, residual: torch.Tensor
    ) -> torch.Tensor:
        """``x`` and ``residual`` [num_tokens, hidden] -> the residual plus what each token's
        experts make of it, by their weights. The residual may be written to."""
        ...
