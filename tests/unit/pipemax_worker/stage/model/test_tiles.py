"""Tiles: every query of every head in exactly one of them, dearest first."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from pipemax_worker.contract.messages import ScheduledRequest
from pipemax_worker.contract.transfers import pack_int32
from pipemax_worker.stage.batch import HostIndices, build_batch
from pipemax_worker.stage.model.native.tiles import MAX_ROWS, build_tiles


def host_of(requests: list[tuple[int, int]]) -> HostIndices:
    scheduled = [
        ScheduledRequest(i, done, new, None, pack_int32(range(done + new)), True)
        for i, (done, new) in enumerate(requests)
    ]
    return build_batch(scheduled, 1, torch.device("cpu")).host


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 150)), min_size=1, max_size=12),
    st.integers(1, 4),
    st.sampled_from([1, 3, 8, 64]),
    st.integers(1, 8),
)
def test_each_query_and_head_once(
    requests: list[tuple[int, int]], num_kv_heads: int, group: int, num_threads: int
) -> None:
    tiles = build_tiles(host_of(requests), num_kv_heads * group, num_kv_heads, num_threads)
    counts = [np.zeros((new, num_kv_heads), int) for _, new in requests]
    for request, first, queries, head, heads in tiles:
        counts[request][first : first + queries, head : head + heads] += 1
        assert queries * group <= max(MAX_ROWS, group)
        assert queries == 1 or heads == 1
    assert all((count == 1).all() for count in counts)


def test_many_decoding_requests_keep_their_heads_together() -> None:
    requests = [(9, 1)] * 8
    assert build_tiles(host_of(requests), 6, 3, num_threads=2)[:, 4].tolist() == [3] * 8
    assert build_tiles(host_of(requests[:7]), 6, 3, num_threads=2)[:, 4].tolist() == [1] * 21


def test_longest_contexts_come_first() -> None:
    tiles = build_tiles(host_of([(3, 1), (90, 1), (40, 1)] * 2), 2, 1, num_threads=1)
    assert tiles[:, 0].tolist() == [1, 4, 2, 5, 0, 3]
