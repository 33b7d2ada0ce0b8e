"""Attention's work list: every query row meets every chunk of its context once."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pipemax_worker.stage.model.cuda.tiles import (
    choose_chunk_tokens,
    choose_tile_rows,
    num_partial_results,
    plan_tiles,
)

Requests = list[tuple[int, int]]
REQUESTS = st.lists(st.tuples(st.integers(0, 900), st.integers(1, 70)), max_size=12)


def arrays(requests: Requests) -> tuple[np.ndarray, np.ndarray]:
    """(new tokens, context lengths) of requests given as (computed, new) tokens."""
    new = np.array([new for _, new in requests], np.int64)
    return new, new + np.array([computed for computed, _ in requests], np.int64)


@given(REQUESTS, st.sampled_from([1, 3, 8]), st.sampled_from([16, 64]), st.sampled_from([64, 256]))
def test_each_tile_of_queries_meets_each_chunk_once(
    requests: Requests, group: int, tile_rows: int, chunk_tokens: int
) -> None:
    new, lengths = arrays(requests)
    tiles = plan_tiles(new, lengths, group, tile_rows, chunk_tokens)
    found = zip(
        tiles.request.tolist(), tiles.query_tile.tolist(), tiles.chunk.tolist(), strict=True
    )
    expected = [
        (request, query_tile, chunk)
        for request, (num_new, length) in enumerate(zip(new, lengths, strict=True))
        for query_tile in range(-(-int(num_new) * group // tile_rows))
        for chunk in range(-(-int(length) // chunk_tokens))
    ]
    assert sorted(found) == expected


@given(REQUESTS, st.sampled_from([64, 256]))
def test_partial_results_lie_by_request_row_and_chunk(
    requests: Requests, chunk_tokens: int
) -> None:
    new, lengths = arrays(requests)
    tiles = plan_tiles(new, lengths, 4, 16, chunk_tokens)
    outputs, rows = [0], [0]
    for num_new, length in zip(new.tolist(), lengths.tolist(), strict=True):
        num_chunks = -(-length // chunk_tokens)
        outputs.append(outputs[-1] + num_new * num_chunks)
        rows += [rows[-1] + num_chunks * (row + 1) for row in range(num_new)]
    assert tiles.output_starts.tolist() == outputs
    assert tiles.merge_starts.tolist() == rows
    assert tiles.num_partial_results == num_partial_results(new, lengths, chunk_tokens)


def test_the_largest_tiles_start_first() -> None:
    new, lengths = arrays([(9, 1), (599, 1), (299, 1)])
    tiles = plan_tiles(new, lengths, 4, 16, 256)
    keys = np.minimum(lengths[tiles.request] - 256 * tiles.chunk, 256)
    assert keys.tolist() == [256, 256, 256, 88, 44, 10]


class TestChunkLength:
    """As measured on an H200 with mean contexts of 830."""

    def chosen(self, contexts: list[int], group: int, kv_heads: int, most: int = 4096) -> int:
        lengths = np.array(contexts, np.int64)
        return choose_chunk_tokens(np.ones_like(lengths), lengths, group, kv_heads, 16, most)

    def log_normal(self, count: int) -> list[int]:
        lengths = np.random.RandomState(0).lognormal(0, 0.6, count)
        return (lengths * 830 / lengths.mean()).astype(int).tolist()

    def test_even_contexts_are_not_cut(self) -> None:
        assert self.chosen([830] * 128, 7, 4) == 1024
        assert self.chosen([830] * 32, 5, 8) == 1024

    def test_long_ones_are_cut(self) -> None:
        assert self.chosen(self.log_normal(128), 7, 4) == 1024
        assert self.chosen(self.log_normal(32), 5, 8) in (512, 1024)
        assert self.chosen([16000], 8, 8) in (512, 768, 1024)

    def test_partial_results_must_fit(self) -> None:
        assert self.chosen([4000, 4000], 4, 8, most=16) == 512
        assert self.chosen([4000, 4000], 4, 8, most=4) == 2048
        assert self.chosen([4000, 4000], 4, 8, most=1) == 4096  # one a row is always allowed

    def test_nothing_to_cut(self) -> None:
        empty = np.array([], np.int64)
        assert choose_chunk_tokens(empty, empty, 4, 4, 16, 10) == 256


def test_tile_heights_are_those_of_the_library() -> None:
    assert choose_tile_rows(32, 32, 7, 128) == 16  # decoding: seven heads a request
    assert choose_tile_rows(2, 2, 32, 128) == 64
    assert choose_tile_rows(48, 1, 8, 128) == 128
    assert choose_tile_rows(48, 1, 8, 256) == 64
    assert choose_tile_rows(0, 0, 8, 128) == 16
