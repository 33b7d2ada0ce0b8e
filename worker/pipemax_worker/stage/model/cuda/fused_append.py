"""Norm of queries and keys, rotation, and KV append in one launch. A Triton kernel.

One by one they are three to four launches of 2 to 3 us, which is about what a launch takes that
does nothing. Keys and values go from registers to the cache.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from pipemax_worker.stage.model.kernels import AttentionShape, QKNorm

HEADS_PER_PROGRAM = 8
NUM_WARPS = 4


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _rotate_and_append(  # type: ignore[no-untyped-def]
    qkv,
    query_norm,
    key_norm,
    angles,
    positions,
    slots,
    offsets,
    kv,
    qkv_row_stride,
    kv_slot_stride,
    kv_value_stride,
    kv_token_stride,
    kv_head_stride,
    eps,
    num_heads: tl.constexpr,
    num_kv_heads: tl.constexpr,
    half_dim: tl.constexpr,
    num_program_heads: tl.constexpr,
    has_norm: tl.constexpr,
    limit: tl.constexpr,
):
    """One program a row and ``num_program_heads`` of its heads, in two halves."""
    row = tl.program_id(0)
    heads = tl.program_id(1) * num_program_heads + tl.arange(0, num_program_heads)
    dims = tl.arange(0, half_dim)
    is_there = heads < num_heads + 2 * num_kv_heads
    is_query = (heads < num_heads)[:, None]
    is_rotated = (heads < num_heads + num_kv_heads)[:, None]
    place = qkv + row * qkv_row_stride + heads[:, None] * (2 * half_dim) + dims[None, :]
    low = tl.load(place, mask=is_there[:, None], other=0.0).to(tl.float32)
    high = tl.load(place + half_dim, mask=is_there[:, None], other=0.0).to(tl.float32)
    normed_low, normed_high = low, high
    if has_norm:
        squares = tl.sum(low * low, 1) + tl.sum(high * high, 1)
        scale = tl.rsqrt(squares / (2 * half_dim) + eps)[:, None]
        query_low = tl.load(query_norm + dims).to(tl.float32)[None, :]
        query_high = tl.load(query_norm + half_dim + dims).to(tl.float32)[None, :]
        key_low = tl.load(key_norm + dims).to(tl.float32)[None, :]
        key_high = tl.load(key_norm + half_dim + dims).to(tl.float32)[None, :]
        normed_low = low * scale * tl.where(is_query, query_low, key_low)
        normed_high = high * scale * tl.where(is_query, query_high, key_high)
    angle = angles + tl.load(positions + row) * (2 * half_dim) + dims
    cos = tl.load(angle)[None, :]
    sin = tl.load(angle + half_dim)[None, :]
    low = tl.where(is_rotated, normed_low * cos - normed_high * sin, low)
    high = tl.where(is_rotated, normed_high * cos + normed_low * sin, high)
    tl.store(place, low.to(qkv.dtype.element_ty), mask=is_query)
    tl.store(place + half_dim, high.to(qkv.dtype.element_ty), mask=is_query)

    is_value = heads >= num_heads + num_kv_heads
    kv_head = tl.where(is_value, heads - num_heads - num_kv_heads, heads - num_heads)
    start = kv + tl.load(slots + row).to(tl.int64) * kv_slot_stride
    start += tl.load(offsets + row) * kv_token_stride
    of_head = tl.where(is_value, kv_value_stride, 0) + kv_head * kv_head_stride
    target = start + of_head[:, None] + dims[None, :]
    is_kept = (is_there & (heads >= num_heads))[:, None]
    if limit > 0:
        low = tl.minimum(tl.maximum(low, -limit), limit)
        high = tl.minimum(tl.maximum(high, -limit), limit)
    tl.store(target, low.to(kv.dtype.element_ty), mask=is_kept)
    tl.store(target + half_dim, high.to(kv.dtype.element_ty), mask=is_kept)


def rotate_and_append(
    qkv: torch.Tensor,
    qk_norm: QKNorm | None,
    kv: torch.Tensor,
    shape: AttentionShape,
    angles: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    offsets: torch.Tensor,
) -> None:
    """What :class:`~pipemax_worker.stage.model.kernels.Kernels` says; keys stay as they are in
    ``qkv``. ``angles`` [positions, head_dim] float32; the others [num_tokens] int32."""
    num_all_heads = shape.num_heads + 2 * shape.num_kv_heads
    grid = (qkv.shape[0], triton.cdiv(num_all_heads, HEADS_PER_PROGRAM))
    norms: tuple[Any, ...] = (qkv, qkv, 0.0)  # not read
    if qk_norm is not None:
        norms = (qk_norm.query, qk_norm.key, qk_norm.eps)
    query_norm, key_norm, eps = norms
    slot_stride, value_stride, token_stride, head_stride, _ = kv.stride()
    _rotate_and_append[grid](
        *(qkv, query_norm, key_norm, angles, positions, slots, offsets, kv),
        *(qkv.stride(0), slot_stride, value_stride, token_stride, head_stride, eps),
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        half_dim=shape.head_dim // 2,
        num_program_heads=HEADS_PER_PROGRAM,
        has_norm=qk_norm is not None,
        limit=_largest(kv.dtype),
        num_warps=NUM_WARPS,
    )


def _largest(dtype: torch.dtype) -> float:
    """fp8 saturates: a conversion could make a large value NaN. 0: there is no such limit."""
    return float(torch.finfo(dtype).max) if dtype.itemsize == 1 else 0.0
