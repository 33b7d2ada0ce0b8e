"""FlashInfer's kernels as their sources read, step by step on the CPU: what our tables must mean to
them. Slow and literal; poisons what a kernel would leave unwritten."""

from __future__ import annotations

import math
from typing import Any

import torch
from pipemax_worker.stage.model.cuda.library import FlashInfer
from pipemax_worker.stage.model.experts import Experts

Tensor = torch.Tensor


def emulated_flashinfer() -> FlashInfer:
    return FlashInfer(
        paged_attention, rms_norm, rotate, append, silu_and_multiply, mix_experts=mix_experts
    )


def mix_experts(x: Tensor, experts: Experts, residual: Tensor) -> Tensor:
    """Ours, of ``fused_experts``: every expert computes all tokens, as nothing may depend on what
    the router chose."""
    assert x.is_contiguous()
    assert residual.is_contiguous()
    weights, chosen = experts.choose(x)
    share = torch.zeros(len(x), experts.config.num_experts).scatter(1, chosen, weights)
    for expert in range(experts.config.num_experts):
        gate, up = experts.gate_up[expert](x).chunk(2, dim=-1)
        product = experts.down[expert](torch.nn.functional.silu(gate) * up)
        residual = residual + share[:, expert, None] * product
    return residual


def rms_norm(out: Tensor, x: Tensor, weight: Tensor, eps: float, pdl: bool) -> None:
    assert x.numel(), "an empty launch is an error"
    wide = x.float()
    out.copy_(wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * weight.float())


def silu_and_multiply(out: Tensor, gate_up: Tensor, pdl: bool) -> None:
    gate, up = gate_up.chunk(2, dim=-1)
    out.copy_(torch.nn.functional.silu(gate) * up)


def rotate(
    queries: Tensor, keys: Tensor, to_queries: Tensor, to_keys: Tensor,
    angles: Tensor, positions: Tensor, interleave: bool,
) -> None:  # fmt: skip
    assert positions.dtype == torch.int32
    assert angles.dtype == torch.float32
    assert not interleave
    cos, sin = angles[positions.long()][:, None].chunk(2, dim=-1)
    for source, target in ((queries, to_queries), (keys, to_keys)):
        low, high = source.chunk(2, dim=-1)
        target.copy_(torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1))


def append(
    keys: Tensor, values: Tensor, requests: Tensor, positions: Tensor, key_blocks: Tensor,
    value_blocks: Tensor, indices: Tensor, starts: Tensor, last_page_tokens: Tensor, layout: int,
) -> None:  # fmt: skip
    assert len(starts) == len(last_page_tokens) + 1
    assert keys.dtype == key_blocks.dtype
    page_tokens = key_blocks.shape[1]
    for row in range(len(keys)):
        flat = int(starts[requests[row]]) * page_tokens + int(positions[row])
        slot = int(indices[flat // page_tokens])
        key_blocks[slot, flat % page_tokens] = keys[row]
        value_blocks[slot, flat % page_tokens] = values[row]


def paged_attention(
    floats: Tensor, ints: Tensor, plan: list[int], queries: Tensor, key_blocks: Tensor,
    value_blocks: Tensor, query_starts: Tensor, page_starts: Tensor, pages: Tensor,
    last_page_tokens: Tensor, out: Tensor, scores_out: None, mask: int, layout: int, window: int,
    pdl: bool, *more: Any,
) -> None:  # fmt: skip
    num_tiles, num_rows, rows_at, tile_rows = plan[:4]
    request_at, query_tile_at, chunk_at, merge_at, output_at, chunk_tokens_at = plan[4:10]
    results_at, scores_at, valid_at, is_graph, is_split = plan[10:]
    assert (is_graph, results_at, layout, window, scores_out) == (1, 0, 0, -1, None)
    assert len(more) == 13  # eight tensors that we leave out, five numbers
    scale = more[9]
    words = ints.view(torch.int32)

    def table(at: int, size: int) -> list[int]:
        assert at % 16 == 0
        return words[at // 4 : at // 4 + size].tolist()

    num_heads, head_dim = queries.shape[1:]
    num_kv_heads, page_tokens = key_blocks.shape[2], key_blocks.shape[1]
    group = num_heads // num_kv_heads
    chunk_tokens = table(chunk_tokens_at, 1)[0]
    output_starts = table(output_at, len(query_starts))
    valid = ints.view(torch.uint8)[valid_at : valid_at + num_tiles].tolist()
    if not is_split:
        valid = [1] * num_tiles
    tiles = zip(
        valid, table(request_at, num_tiles), table(query_tile_at, num_tiles),
        table(chunk_at, num_tiles), strict=True,
    )  # fmt: skip
    num_results = table(merge_at, num_rows + 1)[-1]
    # Without chunks a row's result goes straight to where output_starts says.
    num_places = num_results if is_split else len(out)
    results = torch.full((max(1, num_places), num_heads, head_dim), math.nan)
    scores = torch.full((max(1, num_places), num_heads), math.nan)
    if is_split:
        assert results.numel() * out.element_size() <= scores_at
        assert scores_at + 4 * scores.numel() <= floats.numel()
    for is_valid, request, query_tile, chunk in tiles:
        if not is_valid:
            continue
        first_query, last_query = query_starts[request : request + 2].tolist()
        first_page, last_page = page_starts[request : request + 2].tolist()
        query_len = last_query - first_query
        context_len = (last_page - first_page - 1) * page_tokens + int(last_page_tokens[request])
        if last_page == first_page:
            continue
        slots = pages[first_page:last_page].long()
        keys = key_blocks[slots].flatten(0, 1)[:context_len].float()
        values = value_blocks[slots].flatten(0, 1)[:context_len].float()
        begin, end = chunk * chunk_tokens, min((chunk + 1) * chunk_tokens, context_len)
        num_chunks = -(-context_len // chunk_tokens)
        assert is_split or num_chunks == 1
        for packed in range(query_tile * tile_rows, (query_tile + 1) * tile_rows):
            row, in_group = divmod(packed, group)
            if row >= query_len:
                break
            limit = context_len - query_len + row + 1 if mask == 1 else context_len
            place = output_starts[request] + row * num_chunks + chunk
            for kv_head in range(num_kv_heads):
                head = kv_head * group + in_group
                seen = slice(begin, max(begin, min(end, limit)))
                logits = keys[seen, kv_head] @ queries[first_query + row, head].float() * scale
                scores[place, head] = logits.logsumexp(0) if len(logits) else -math.inf
                results[place, head] = logits.softmax(0) @ values[seen, kv_head]
    if not is_split:
        written = ~scores[: len(out)].isnan().any(dim=1)
        out[written] = results[: len(out)][written].to(out.dtype)
        return
    merge_starts = table(merge_at, num_rows + 1)
    for row in range(table(rows_at, 1)[0]):
        part = slice(merge_starts[row], merge_starts[row + 1])
        weights = scores[part].softmax(0)[..., None]
        out[row] = (weights * results[part]).sum(0).to(out.dtype)
