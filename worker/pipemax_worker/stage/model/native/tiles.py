"""Cuts a micro-batch's attention into tiles: the units that the threads take."""

from __future__ import annotations

import numpy as np

from pipemax_worker.stage.batch import HostIndices, Indices

MAX_ROWS = 64
"""Query rows of one tile, tokens times heads of one KV head; ``MAX_ROWS`` of paged_attention.h."""

TILES_PER_THREAD = 4
"""Decoding requests from which on a tile takes all KV heads: enough to keep the threads even."""


def build_tiles(host: HostIndices, num_heads: int, num_kv_heads: int, num_threads: int) -> Indices:
    """[num_tiles, 5]: request, first query, queries, first KV head, KV heads; dearest first.

    A decoding request is one tile (its blocks are read from end to end), or one for each KV head
    where there are few requests. A chunk is cut into runs of queries, each with one KV head.
    """
    num_new = host.num_new_tokens
    decoding, chunks = np.flatnonzero(num_new == 1), np.flatnonzero(num_new > 1)
    is_whole = len(decoding) >= TILES_PER_THREAD * num_threads
    heads_per_tile = num_kv_heads if is_whole else 1
    max_queries = max(1, MAX_ROWS // (num_heads // num_kv_heads))
    num_runs = -(-num_new[chunks] // max_queries)
    run_request = np.repeat(chunks, num_runs)
    run_start = _ranks_within(num_runs) * max_queries
    run_queries = np.minimum(max_queries, num_new[run_request] - run_start)
    ones, zeros = np.ones_like(decoding), np.zeros_like(decoding)
    parts = (
        _with_heads(decoding, zeros, ones, num_kv_heads, heads_per_tile),
        _with_heads(run_request, run_start, run_queries, num_kv_heads, 1),
    )
    tiles = np.concatenate(parts)
    num_keys = (host.context_lens - num_new)[tiles[:, 0]] + tiles[:, 1] + tiles[:, 2]
    order = np.argsort(-num_keys * tiles[:, 2] * tiles[:, 4], kind="stable")
    return np.ascontiguousarray(tiles[order])


def _ranks_within(counts: Indices) -> Indices:
    """0, 1, ... counts[0] - 1, 0, 1, ... counts[1] - 1, ..."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) - np.repeat(ends - counts, counts)


def _with_heads(
    requests: Indices, starts: Indices, queries: Indices, num_kv_heads: int, heads_per_tile: int
) -> Indices:
    first_heads = np.arange(0, num_kv_heads, heads_per_tile)
    columns = (
        *(np.repeat(values, len(first_heads)) for values in (requests, starts, queries)),
        np.tile(first_heads, len(requests)),
        np.full(len(requests) * len(first_heads), heads_per_tile),
    )
    return np.stack(columns, axis=1).astype(np.int64)
