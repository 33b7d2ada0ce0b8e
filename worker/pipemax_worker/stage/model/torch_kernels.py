"""The kernels in plain PyTorch: any device, any compute dtype, any KV dtype."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pipemax_worker.stage.batch import Batch
from pipemax_worker.stage.model.attention import append, attend, plan_groups
from pipemax_worker.stage.model.experts import Experts
from pipemax_worker.stage.model.kernels import AttentionShape, QKNorm
from pipemax_worker.stage.model.torch_experts import mix_experts


class TorchKernels:
    """Implements :class:`~pipemax_worker.stage.model.kernels.Kernels` for one step."""

    def __init__(self, batch: Batch, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """``cos`` and ``sin`` [num_tokens, head_dim / 2] in the compute dtype."""
        self._batch = batch
        self._cos = cos[:, None]  # [num_tokens, 1, head_dim / 2]
        self._sin = sin[:, None]
        self._groups = plan_groups(batch)
        self._masks: dict[AttentionShape, tuple[torch.Tensor, ...]] = {}

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        return weight * normed.to(x.dtype)

    def rotate_and_append(
        self, qkv: torch.Tensor, qk_norm: QKNorm | None, kv: torch.Tensor, shape: AttentionShape
    ) -> None:
        heads = qkv.view(qkv.shape[0], -1, shape.head_dim)
        sizes = [shape.num_heads, shape.num_kv_heads, shape.num_kv_heads]
        queries, keys, values = torch.split_with_sizes(heads, sizes, dim=1)
        if qk_norm is not None:
            queries.copy_(self.rms_norm(queries, qk_norm.query, qk_norm.eps))
            keys.copy_(self.rms_norm(keys, qk_norm.key, qk_norm.eps))
        rotated = heads[:, : shape.num_heads + shape.num_kv_heads]
        rotated.copy_(self._rotate(rotated))
        append(kv, self._batch, keys, values)

    def attention(self, qkv: torch.Tensor, kv: torch.Tensor, shape: AttentionShape) -> torch.Tensor:
        queries = qkv.view(qkv.shape[0], -1, shape.head_dim)[:, : shape.num_heads]
        out = qkv.new_empty(qkv.shape[0], shape.num_query_columns)
        masks = self._masks_for(shape)
        for group, mask in zip(self._groups, masks, strict=True):
            out[group.rows] = attend(queries, kv, group, mask, shape)
        return out

    def silu_and_multiply(self, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up

    def mix_experts(
        self, x: torch.Tensor, experts: Experts, residual: torch.Tensor
    ) -> torch.Tensor:
        return mix_experts(x, experts, residual, self.silu_and_multiply)

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:  # [num_tokens, heads, head_dim]
        low, high = x.chunk(2, dim=-1)
        return torch.cat(
            (low * self._cos - high * self._sin, high * self._cos + low * self._sin), dim=-1
        )

    def _masks_for(self, shape: AttentionShape) -> tuple[torch.Tensor, ...]:
        if shape not in self._masks:
            block_tokens = self._batch.block_tokens
            self._masks[shape] = tuple(group.mask(block_tokens, shape) for group in self._groups)
        return self._masks[shape]
