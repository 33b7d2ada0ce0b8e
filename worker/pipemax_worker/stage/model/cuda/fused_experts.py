"""A mixture of experts in a fixed number of launches, which a CUDA graph can hold. Triton kernels.

PyTorch's own grouped product waits for the host, but for GPUs of compute capability 9 and 10: it
then takes the experts' sizes to the CPU and loops over them. FlashInfer's fused experts are made
for the same GPUs. These run on all.

Pairs of token and expert are sorted by expert into blocks that are padded to a fixed number of rows
(``expert_blocks``), as in MegaBlocks (arXiv 2211.15841); each thread block multiplies one block of
pairs with some columns of its expert. A pair's product is written to the pair's own place, and a
token's products are added in the order in which its experts were chosen: no sum depends on timing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pipemax_worker.stage.model.cuda.expert_blocks import ExpertBlocks, plan_blocks
from pipemax_worker.stage.model.experts import Experts

PAIRS_AT_A_TIME = 1024
LEAST_BINS = 32
COLUMNS_ADDED = 1024

STEP_SIZES = ["num_pairs", "num_blocks"]
"""Triton compiles anew, for a second or two, for a number that is one or divides by 16 and for one
that does not: in the middle of a job, since these change from step to step."""


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _choose(  # type: ignore[no-untyped-def]
    weights,
    chosen,
    logits,
    num_experts: tl.constexpr,
    num_chosen: tl.constexpr,
    padded_experts: tl.constexpr,
    padded_chosen: tl.constexpr,
    is_normed: tl.constexpr,
):
    """One program a token: softmax, then the largest one after the other."""
    row = tl.program_id(0).to(tl.int64)
    experts = tl.arange(0, padded_experts)
    is_there = experts < num_experts
    logit = tl.load(logits + row * num_experts + experts, mask=is_there, other=float("-inf"))
    exponentials = tl.exp(logit - tl.max(logit, 0))
    probability = exponentials / tl.sum(exponentials, 0)
    probability = tl.where(probability == probability, probability, 0.0)  # NaN is never the largest
    left = tl.where(is_there, probability, -1.0)
    places = tl.arange(0, padded_chosen)
    own_weights = tl.zeros([padded_chosen], tl.float32)
    own_experts = tl.zeros([padded_chosen], tl.int32)
    for place in tl.static_range(num_chosen):
        largest = tl.max(left, 0)
        best = tl.argmax(left, 0)
        own_weights = tl.where(places == place, largest, own_weights)
        own_experts = tl.where(places == place, best, own_experts)
        left = tl.where(experts == best, -1.0, left)
    if is_normed:
        own_weights = own_weights / tl.sum(own_weights, 0)
    target = row * num_chosen + places
    tl.store(weights + target, own_weights, mask=places < num_chosen)
    tl.store(chosen + target, own_experts, mask=places < num_chosen)


@triton.jit(do_not_specialize=STEP_SIZES)  # type: ignore[untyped-decorator, unused-ignore]
def _sort_into_blocks(  # type: ignore[no-untyped-def]
    sorted_pairs,
    block_experts,
    chosen,
    num_pairs,
    num_blocks,
    num_experts: tl.constexpr,
    num_bins: tl.constexpr,
    rows: tl.constexpr,
    at_a_time: tl.constexpr,
):
    """One program an expert, which writes its blocks; one more for the blocks that are left.

    Places that only pad hold ``num_pairs``, blocks that are left the expert -1.
    """
    expert = tl.program_id(0)
    bins = tl.arange(0, num_bins)
    counts = tl.zeros([num_bins], tl.int32)
    for start in range(0, num_pairs, at_a_time):
        pairs = start + tl.arange(0, at_a_time)
        theirs = tl.load(chosen + pairs, mask=pairs < num_pairs, other=num_experts)
        counts += tl.histogram(theirs, num_bins)
    blocks = tl.where(bins < num_experts, (counts + rows - 1) // rows, 0)
    first = tl.sum(tl.where(bins < expert, blocks, 0), 0)
    is_expert = expert < num_experts
    own = tl.sum(tl.where(bins == expert, blocks, 0), 0)
    span = tl.where(is_expert, own, num_blocks - first)
    for start in range(0, span, at_a_time):
        block = start + tl.arange(0, at_a_time)
        value = tl.zeros([at_a_time], tl.int32) + tl.where(is_expert, expert, -1)
        tl.store(block_experts + first + block, value, mask=block < span)
    if is_expert:
        place = sorted_pairs + first * rows
        count = tl.sum(tl.where(bins == expert, counts, 0), 0)
        padding = count + tl.arange(0, rows)
        no_pair = tl.zeros([rows], tl.int32) + num_pairs
        tl.store(place + padding, no_pair, mask=padding < own * rows)
        before = 0
        for start in range(0, num_pairs, at_a_time):
            pairs = start + tl.arange(0, at_a_time)
            theirs = tl.load(chosen + pairs, mask=pairs < num_pairs, other=num_experts)
            is_own = (theirs == expert).to(tl.int32)
            rank = before + tl.cumsum(is_own, 0) - 1
            tl.store(place + rank, pairs, mask=is_own != 0)
            before += tl.sum(is_own, 0)


@triton.jit(do_not_specialize=STEP_SIZES)  # type: ignore[untyped-decorator, unused-ignore]
def _multiply_blocks(  # type: ignore[no-untyped-def]
    out,
    x,
    weights,
    sorted_pairs,
    block_experts,
    num_pairs,
    num_blocks,
    num_in: tl.constexpr,
    num_out: tl.constexpr,
    pairs_of_row: tl.constexpr,
    is_gated: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    depth: tl.constexpr,
):
    """One program a block and ``columns`` of ``num_out``: row ``pair // pairs_of_row`` of ``x``
    times the expert's weights [num_out, num_in], or, gated, silu of that times the same with the
    rows of the weights below. Blocks of one expert follow each other, so they share its weights in
    the cache."""
    block = tl.program_id(0) % num_blocks
    expert = tl.load(block_experts + block)
    if expert < 0:
        return
    pairs = tl.load(sorted_pairs + block * rows + tl.arange(0, rows))
    is_pair = (pairs < num_pairs)[:, None]
    source = tl.where(pairs < num_pairs, pairs // pairs_of_row, 0).to(tl.int64)[:, None]
    column = (tl.program_id(0) // num_blocks) * columns + tl.arange(0, columns)
    is_column = (column < num_out)[None, :]
    depths = tl.arange(0, depth)
    x_at = x + source * num_in + depths[None, :]
    matrix = weights + expert.to(tl.int64) * ((2 if is_gated else 1) * num_out * num_in)
    weights_at = matrix + column[None, :] * num_in + depths[:, None]
    up_at = weights_at + num_out * num_in
    product = tl.zeros([rows, columns], tl.float32)
    up = tl.zeros([rows, columns], tl.float32)
    for start in range(0, num_in, depth):
        if num_in % depth == 0:
            x_mask, weights_mask = is_pair, is_column
        else:
            is_in = start + depths < num_in
            x_mask, weights_mask = is_pair & is_in[None, :], is_column & is_in[:, None]
        taken = tl.load(x_at + start, mask=x_mask, other=0.0)
        tile = tl.load(weights_at + start, mask=weights_mask, other=0.0)
        product = tl.dot(taken, tile, product)
        if is_gated:
            up = tl.dot(taken, tl.load(up_at + start, mask=weights_mask, other=0.0), up)
    if is_gated:
        product = product / (1.0 + tl.exp(-product)) * up
    target = out + pairs.to(tl.int64)[:, None] * num_out + column[None, :]
    tl.store(target, product.to(out.dtype.element_ty), mask=is_pair & is_column)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _add_weighted(  # type: ignore[no-untyped-def]
    residual,
    products,
    weights,
    width: tl.constexpr,
    num_chosen: tl.constexpr,
    num_columns: tl.constexpr,
):
    """One program a token and ``num_columns`` of its columns: adds its experts' products."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * num_columns + tl.arange(0, num_columns)
    is_there = columns < width
    target = residual + row * width + columns
    total = tl.load(target, mask=is_there, other=0.0).to(tl.float32)
    mixed = tl.zeros([num_columns], tl.float32)
    for place in tl.static_range(num_chosen):
        pair = row * num_chosen + place
        product = tl.load(products + pair * width + columns, mask=is_there, other=0.0)
        mixed += tl.load(weights + pair) * product.to(tl.float32)
    tl.store(target, (total + mixed).to(residual.dtype.element_ty), mask=is_there)


def mix_experts(x: torch.Tensor, experts: Experts, residual: torch.Tensor) -> torch.Tensor:
    """What :class:`~pipemax_worker.stage.model.kernels.Kernels` says; the residual is written to.
    All three are contiguous."""
    num_tokens, hidden = x.shape
    config = experts.config
    weights, chosen = choose(experts.router.in_float32(x), config.num_experts_per_tok,
                             is_normed=config.norm_topk_prob)  # fmt: skip
    blocks = plan_blocks(chosen.numel(), config.num_experts)
    order = sort_into_blocks(chosen, config.num_experts, blocks)
    width = config.intermediate_size
    activated = x.new_empty(chosen.numel(), width)
    _multiply(activated, x, experts.gate_up.stacked, order, blocks, is_gated=True)
    products = x.new_empty(chosen.numel(), hidden)
    _multiply(products, activated, experts.down.stacked, order, blocks, is_gated=False)
    grid = (num_tokens, triton.cdiv(hidden, COLUMNS_ADDED))
    _add_weighted[grid](residual, products, weights, hidden, chosen.shape[1], COLUMNS_ADDED)
    return residual


def choose(
    logits: torch.Tensor, num_chosen: int, *, is_normed: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """``logits`` [num_tokens, num_experts] float32 -> weights float32 and experts int32, both
    [num_tokens, num_chosen]. Of equal ones the first expert."""
    num_tokens, num_experts = logits.shape
    weights = logits.new_empty(num_tokens, num_chosen)
    chosen = torch.empty(num_tokens, num_chosen, dtype=torch.int32, device=logits.device)
    padded = (triton.next_power_of_2(num_experts), triton.next_power_of_2(num_chosen))
    _choose[(num_tokens,)](
        weights, chosen, logits, num_experts, num_chosen, *padded, is_normed, num_warps=1
    )
    return weights, chosen


def sort_into_blocks(
    chosen: torch.Tensor, num_experts: int, blocks: ExpertBlocks
) -> tuple[torch.Tensor, torch.Tensor]:
    """``chosen`` [num_tokens, num_chosen] int32 -> pairs [num_blocks * rows], number
    ``token * num_chosen + place`` each, by expert and within it in order; and each block's expert
    [num_blocks]. What pads is as ``_sort_into_blocks`` says."""
    new_empty = chosen.new_empty
    pairs, block_experts = new_empty(blocks.num_blocks * blocks.rows), new_empty(blocks.num_blocks)
    num_bins = max(LEAST_BINS, triton.next_power_of_2(num_experts + 1))
    _sort_into_blocks[(num_experts + 1,)](
        *(pairs, block_experts, chosen, chosen.numel(), blocks.num_blocks),
        *(num_experts, num_bins, blocks.rows, PAIRS_AT_A_TIME),
    )
    return pairs, block_experts


def _multiply(
    out: torch.Tensor,
    x: torch.Tensor,
    weights: torch.Tensor,
    order: tuple[torch.Tensor, torch.Tensor],
    blocks: ExpertBlocks,
    *,
    is_gated: bool,
) -> None:
    """``out`` [num_pairs, num_out] from ``x``, whose rows are tokens if ``is_gated``, else pairs;
    ``weights`` [num_experts, num_out, num_in], gated with twice the rows."""
    num_pairs, num_out = out.shape
    grid = (blocks.num_blocks * triton.cdiv(num_out, blocks.columns),)
    _multiply_blocks[grid](
        *(out, x, weights, *order, num_pairs, blocks.num_blocks),
        *(x.shape[1], num_out, num_pairs // x.shape[0], is_gated),
        *(blocks.rows, blocks.columns, blocks.depth),
        num_warps=blocks.num_warps,
        num_stages=blocks.num_stages,
    )
