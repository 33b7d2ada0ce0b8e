"""How FlashInfer's paged attention is cut into thread blocks. Pure.

FlashInfer's FA2 kernel (arXiv 2501.01005) works through a list of tiles, each some query rows of
one request times one chunk of its context, and merges the chunks of a row afterwards. Its own plan
cuts long contexts only while there are fewer requests than the GPU runs thread blocks; a batch of
many requests of unlike lengths then waits for its longest. This plan cuts all contexts into chunks
of one length and starts the largest tiles first.

Query rows are *packed*: the ``heads_per_kv_head`` query heads that share a KV head count as rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]

MIN_CHUNK_TOKENS = 256
MICROSECONDS_PER_BLOCK = 0.02
MICROSECONDS_PER_TOKEN_OF_LONGEST = {16: 0.004, 64: 0.01, 128: 0.02}
"""What an attention launch takes beyond reading KV: for each thread block that it starts, and for
each token of its longest chunk, by the rows of a tile, while the other blocks are done. Fitted on
an H200: 128 requests and 4 KV heads, 32 and 8, contexts of 830 on average, even or log-normal."""

DECODE_TILE_ROWS = 16
"""Packed rows of a tile: the least of the kernel's sizes (16, 64, 128), if a request fits it."""


@dataclass(frozen=True)
class Tiles:
    """The kernel's work list for ``num_rows`` query rows.

    request, query_tile, chunk   one entry a tile.
    output_starts   first partial result of each request; partial results lie in the order of
                    requests, rows and chunks.
    merge_starts    first partial result of each row.
    """

    tile_rows: int
    chunk_tokens: int
    request: Int32s  # [num_tiles]
    query_tile: Int32s  # [num_tiles]
    chunk: Int32s  # [num_tiles]
    output_starts: Int32s  # [num_requests + 1]
    merge_starts: Int32s  # [num_rows + 1]

    @property
    def num_tiles(self) -> int:
        return len(self.request)

    @property
    def is_split(self) -> bool:
        """Whether some row has several partial results, which are merged by a launch of its own."""
        return self.num_partial_results > len(self.merge_starts) - 1

    @property
    def num_partial_results(self) -> int:
        return int(self.merge_starts[-1])


def choose_tile_rows(
    num_rows: int, num_requests: int, heads_per_kv_head: int, head_dim: int
) -> int:
    """The kernel's tile for requests of ``num_rows`` new tokens together, as FlashInfer chooses."""
    packed_rows = num_rows * heads_per_kv_head // max(1, num_requests)
    if packed_rows <= DECODE_TILE_ROWS:
        return DECODE_TILE_ROWS
    return 128 if packed_rows > 64 and head_dim < 256 else 64


def choose_chunk_tokens(
    num_new: Int64s,
    context_lens: Int64s,
    heads_per_kv_head: int,
    num_kv_heads: int,
    tile_rows: int,
    max_partial_results: int,
) -> int:
    """How long chunks make the launch shortest: short ones mean many thread blocks, long ones that
    all wait for the longest. No more than ``max_partial_results`` rows of partial results come
    about (their memory is fixed), or no more than there are rows."""
    longest = int(context_lens.max(initial=1))
    most = max(max_partial_results, int(num_new.sum()))
    query_tiles = -(-num_new * heads_per_kv_head // tile_rows)
    best, least = MIN_CHUNK_TOKENS, float("inf")
    chunk_tokens = MIN_CHUNK_TOKENS
    while True:
        num_chunks = -(-context_lens // chunk_tokens)
        num_blocks = int((query_tiles * num_chunks).sum()) * num_kv_heads
        tail = MICROSECONDS_PER_TOKEN_OF_LONGEST[tile_rows] * min(chunk_tokens, longest)
        cost = MICROSECONDS_PER_BLOCK * num_blocks + tail
        if cost < least and int((num_new * num_chunks).sum()) <= most:
            best, least = chunk_tokens, cost
        if chunk_tokens >= longest:
            return best
        chunk_tokens += 1 << chunk_tokens.bit_length() - 2  # 256, 384, 512, 768, ...


def num_partial_results(num_new: Int64s, context_lens: Int64s, chunk_tokens: int) -> int:
    return int((num_new * -(-context_lens // chunk_tokens)).sum())


def plan_tiles(
    num_new: Int64s,
    context_lens: Int64s,
    heads_per_kv_head: int,
    tile_rows: int,
    chunk_tokens: int,
) -> Tiles:
    """Tiles for requests with ``num_new`` new tokens at the end of ``context_lens`` tokens."""
    num_chunks = -(-context_lens // chunk_tokens)
    num_query_tiles = -(-num_new * heads_per_kv_head // tile_rows)
    tiles_of = num_chunks * num_query_tiles
    request = np.repeat(np.arange(len(num_new)), tiles_of)
    place = np.arange(len(request)) - np.repeat(np.cumsum(tiles_of) - tiles_of, tiles_of)
    query_tile, chunk = np.divmod(place, num_chunks[request])
    num_keys = np.minimum(context_lens[request] - chunk * chunk_tokens, chunk_tokens)
    order = np.argsort(-num_keys, kind="stable")
    return Tiles(
        tile_rows,
        chunk_tokens,
        request[order].astype(np.int32),
        query_tile[order].astype(np.int32),
        chunk[order].astype(np.int32),
        _starts(num_new * num_chunks),
        _starts(np.repeat(num_chunks, num_new)),
    )


def _starts(counts: Int64s) -> Int32s:
    starts = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=starts[1:])
    return starts
