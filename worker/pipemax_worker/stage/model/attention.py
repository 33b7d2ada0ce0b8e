"""Paged attention in plain PyTorch: the reference on every device, and the path without a kernel.

Requests are attended in groups of equal query length. A group's blocks are gathered into one padded
tensor, converted to the compute dtype, and given to ``scaled_dot_product_attention`` with a mask.
The query heads that share a KV head are laid beside each other as more queries, so keys and values
are never repeated in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from pipemax_worker.stage.batch import Batch, HostIndices, Indices
from pipemax_worker.stage.model.kernels import AttentionShape

MAX_GATHERED_TOKENS = 65536
"""Padded context tokens of one group: bounds the memory of gathered keys and values."""


@dataclass(frozen=True)
class AttentionGroup:
    """Requests with the same number of new tokens, padded to the longest context among them."""

    num_queries: int
    rows: torch.Tensor  # [group_size * num_queries] of the batch
    slots: torch.Tensor  # [group_size, max_blocks]
    positions: torch.Tensor  # [group_size, num_queries]

    def mask(self, block_tokens: int, shape: AttentionShape) -> torch.Tensor:
        """What each query may see, once for every head that shares a KV head:
        [group_size, 1, heads * num_queries, max_blocks * block_tokens] bool."""
        num_keys = self.slots.shape[1] * block_tokens
        keys = torch.arange(num_keys, device=self.slots.device)
        queries = self.positions[:, :, None]
        visible = keys <= queries
        if shape.window is not None:
            visible = visible & (keys > queries - shape.window)
        return visible.repeat(1, shape.num_heads // shape.num_kv_heads, 1)[:, None]


def plan_groups(batch: Batch) -> tuple[AttentionGroup, ...]:
    """Decoding requests in groups of similar context length, each chunk of a prompt by itself."""
    host = batch.host
    return tuple(_build_group(batch, members) for members in _members(host))


def _members(host: HostIndices) -> Iterator[Indices]:
    num_new = host.num_new_tokens
    for request in np.flatnonzero(num_new > 1):
        yield np.array([request])
    decoding = np.flatnonzero(num_new == 1)
    decoding = decoding[np.argsort(-host.context_lens[decoding], kind="stable")]
    while len(decoding):
        size = max(1, MAX_GATHERED_TOKENS // int(host.context_lens[decoding[0]]))
        yield decoding[:size]
        decoding = decoding[size:]


def _build_group(batch: Batch, members: Indices) -> AttentionGroup:
    host, device = batch.host, batch.device
    num_queries = int(host.num_new_tokens[members[0]])
    num_blocks = -(-host.context_lens[members] // batch.block_tokens)
    columns = np.minimum(np.arange(num_blocks.max()), num_blocks[:, None] - 1)
    slots = host.block_tables[host.table_starts[members][:, None] + columns]
    rows = host.query_starts[members][:, None] + np.arange(num_queries)
    positions = host.context_lens[members][:, None] - num_queries + np.arange(num_queries)
    return AttentionGroup(
        num_queries,
        torch.from_numpy(rows.reshape(-1)).to(device),
        torch.from_numpy(slots).to(device),
        torch.from_numpy(positions).to(device),
    )


def append(kv: torch.Tensor, batch: Batch, keys: torch.Tensor, values: torch.Tensor) -> None:
    """Write the new tokens' ``keys`` and ``values`` [num_tokens, num_kv_heads, head_dim] to their
    slots. fp8 saturates: PyTorch's own conversion would make a large value NaN."""
    both = torch.stack((keys, values), dim=1)  # [num_tokens, 2, num_kv_heads, head_dim]
    if kv.dtype == torch.float8_e4m3fn:
        largest = torch.finfo(kv.dtype).max
        both = both.clamp(-largest, largest).to(kv.dtype).view(torch.uint8)
        kv = kv.view(torch.uint8)  # indexing has no fp8 form
    kv.transpose(1, 2)[batch.indices.slots, batch.indices.offsets] = both.to(kv.dtype)


def gather(
    kv: torch.Tensor, slots: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of whole blocks, [group_size, num_kv_heads, max_keys, head_dim] of dtype."""
    if kv.dtype == torch.float8_e4m3fn:
        blocks = kv.view(torch.uint8)[slots].view(kv.dtype).to(dtype)
    else:
        blocks = kv[slots].to(dtype)  # [group_size, max_blocks, 2, block_tokens, heads, head_dim]
    keys, values = blocks.permute(2, 0, 4, 1, 3, 5).flatten(3, 4).unbind(0)
    return keys, values


def attend(
    queries: torch.Tensor,
    kv: torch.Tensor,
    group: AttentionGroup,
    mask: torch.Tensor,
    shape: AttentionShape,
) -> torch.Tensor:
    """``queries`` [num_tokens, num_heads, head_dim] -> the group's rows
    [group_size * num_queries, num_heads * head_dim]."""
    keys, values = gather(kv, group.slots, queries.dtype)
    size, num_queries = group.positions.shape
    heads_per_kv_head = shape.num_heads // shape.num_kv_heads
    split = (size, num_queries, shape.num_kv_heads, heads_per_kv_head, shape.head_dim)
    own = queries[group.rows].view(split).permute(0, 2, 3, 1, 4).flatten(2, 3)
    out = F.scaled_dot_product_attention(own, keys, values, mask, scale=shape.scale)
    grouped = (size, shape.num_kv_heads, heads_per_kv_head, num_queries, shape.head_dim)
    out = out.view(grouped).permute(0, 3, 1, 2, 4)
    return out.reshape(size * num_queries, shape.num_query_columns)
