"""The split by cost: the best of all splits, found without trying them all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipemax_worker.contract.model_config import load_model_config, parse_model_config
from pipemax_worker.contract.model_cut import ModelCut
from pipemax_worker.pipeline.layer_split import SplitCosts, cut_model, split_layers
from pipemax_worker.pipeline.partition import derive_split_costs

SHAPES = Path(__file__).parents[4] / "tools/shapes"
MIB = 1 << 20
Split = tuple[int, ...]


def costs_of(layers: list[int], embedding: int = 0, head: int = 0, kv: int = 1) -> SplitCosts:
    """Times as bytes: a step reads all of it once."""
    return SplitCosts(tuple(layers), tuple(map(float, layers)), kv, kv, embedding, head, head)


def all_splits(num_layers: int, num_stages: int) -> Iterator[Split]:
    for cuts in itertools.combinations(range(1, num_layers), num_stages - 1):
        edges = (0, *cuts, num_layers)
        yield tuple(end - start for start, end in itertools.pairwise(edges))


def stage_totals(costs: SplitCosts, split: Split, of_first: float, of_last: float) -> list[float]:
    ends = list(itertools.accumulate(split))
    sums = [
        float(sum(costs.layer_bytes[end - n : end])) for n, end in zip(split, ends, strict=True)
    ]
    sums[0] += of_first
    sums[-1] += of_last
    return sums


def kv_tokens(costs: SplitCosts, split: Split, rooms: list[int]) -> int:
    weights = stage_totals(costs, split, costs.embedding_bytes, costs.head_bytes)
    stages = zip(rooms, weights, split, strict=True)
    return int(min((room - w) // (n * costs.kv_bytes_per_token) for room, w, n in stages))


def rate(costs: SplitCosts, split: Split, rooms: list[int]) -> float:
    """Tokens of KV per second of step; less than 0 where weights do not fit."""
    tokens = kv_tokens(costs, split, rooms)
    seconds = stage_totals(costs, split, 0.0, costs.head_seconds)
    each = costs.kv_seconds_per_token * tokens / len(split)
    return tokens / max(s + n * each for s, n in zip(seconds, split, strict=True))


layer_lists = st.lists(st.integers(1, 9), min_size=2, max_size=8)


@settings(max_examples=80, deadline=None)
@given(layer_lists, st.integers(2, 4), st.integers(0, 20), st.integers(0, 20))
def test_the_fastest_then_the_lightest_then_the_most_even(
    layers: list[int], num_stages: int, embedding: int, head: int
) -> None:
    if num_stages > len(layers):
        return
    costs = costs_of(layers, embedding, head)

    def key(split: Split) -> tuple[float, float, int]:
        slowest = max(stage_totals(costs, split, 0.0, head))
        heaviest = max(stage_totals(costs, split, embedding, head))
        return slowest, heaviest, sum(n * n for n in split)

    best = min(map(key, all_splits(len(layers), num_stages)))
    assert key(split_layers(costs, num_stages)) == best


@settings(max_examples=80, deadline=None)
@given(
    layer_lists,
    st.lists(st.integers(10, 200), min_size=2, max_size=4),
    st.integers(0, 20),
    st.integers(0, 20),
)
def test_most_kv_per_second_where_room_is_known(
    layers: list[int], rooms: list[int], embedding: int, head: int
) -> None:
    if len(rooms) > len(layers):
        return
    costs = costs_of(layers, embedding, head)
    best = max(rate(costs, split, rooms) for split in all_splits(len(layers), len(rooms)))
    split = split_layers(costs, len(rooms), rooms)
    if best > 0:
        assert rate(costs, split, rooms) == pytest.approx(best)
    else:
        assert split == split_layers(costs, len(rooms))


def all_cuts(num_layers: int, num_stages: int) -> Iterator[ModelCut]:
    """Within layers too."""
    for split in all_splits(num_layers, num_stages):
        for left in itertools.product((False, True), repeat=num_stages - 1):
            yield ModelCut(split, (*left, False))


def sum_parts(costs: SplitCosts, cut: ModelCut, stage: int) -> int:
    """Bytes of a stage's layers and parts of layers."""
    attention, mlp = cut.layers(stage)
    of_attention = sum(costs.layer_bytes[layer] - costs.mlp_bytes[layer] for layer in attention)
    return of_attention + sum(costs.mlp_bytes[layer] for layer in mlp)


def kv_tokens_of_parts(costs: SplitCosts, cut: ModelCut, rooms: list[int]) -> int:
    tokens = []
    for stage, room in enumerate(rooms):
        held = sum_parts(costs, cut, stage)
        held += costs.embedding_bytes if stage == 0 else 0
        held += costs.head_bytes if stage == cut.num_stages - 1 else 0
        tokens.append((room - held) // (cut.layers_of_stage[stage] * costs.kv_bytes_per_token))
    return min(tokens)


def rate_of_parts(costs: SplitCosts, cut: ModelCut, rooms: list[int]) -> float:
    """As :func:`rate`, part by part; times are bytes, as ``costs_of`` makes them."""
    tokens = kv_tokens_of_parts(costs, cut, rooms)
    each = costs.kv_seconds_per_token * tokens / cut.num_stages
    seconds = [
        sum_parts(costs, cut, stage) + each * count
        for stage, count in enumerate(cut.layers_of_stage)
    ]
    seconds[-1] += costs.head_seconds
    return tokens / max(seconds)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 9)), min_size=2, max_size=6),
    st.lists(st.integers(10, 150), min_size=2, max_size=4),
    st.integers(0, 20),
    st.integers(0, 20),
)
def test_most_kv_per_second_of_all_cuts_within_layers_too(
    layers: list[tuple[int, int]], rooms: list[int], embedding: int, head: int
) -> None:
    if len(rooms) > len(layers):
        return
    costs = costs_of([attention + mlp for attention, mlp in layers], embedding, head)
    costs = replace(costs, mlp_bytes=tuple(mlp for _, mlp in layers))
    best = max(rate_of_parts(costs, cut, rooms) for cut in all_cuts(len(layers), len(rooms)))
    cut = cut_model(costs, len(rooms), rooms)
    whole = split_layers(costs, len(rooms), rooms)
    if best <= 0:
        assert cut == ModelCut(whole)
        return
    assert rate_of_parts(costs, cut, rooms) == pytest.approx(best)
    if rate_of_parts(costs, ModelCut(whole), rooms) == pytest.approx(best):
        assert cut == ModelCut(whole), "of equals whole layers"


def test_without_a_room_layers_stay_whole() -> None:
    """Though a cut within one would be as fast."""
    costs = replace(costs_of([10] * 5), mlp_bytes=(5,) * 5)
    assert cut_model(costs, 2) == ModelCut((3, 2))
    assert cut_model(costs, 2, [100, 100]) == ModelCut((3, 2), (True, False))


def test_no_more_cuts_within_layers_than_are_needed() -> None:
    """Of four stages of which one is small: a half of a layer goes past its neighbours alone."""
    costs = replace(costs_of([10] * 16), mlp_bytes=(8,) * 16)
    cut = cut_model(costs, 4, [100, 58, 100, 100])
    assert 1 <= sum(cut.mlp_left_by_stage) <= 2


def test_room_for_kv_outweighs_speed() -> None:
    """The fastest split leaves the last stage 1 byte, the other 11."""
    costs = replace(costs_of([10, 10, 10, 10], head=5), kv_seconds_per_token=0.0)
    assert split_layers(costs, 2) == (2, 2)
    assert split_layers(costs, 2, [1000, 26]) == (3, 1)


def test_a_small_gpu_gets_fewer_layers() -> None:
    costs = costs_of([100] * 16)
    even = split_layers(costs, 4, [1000] * 4)
    assert even == (4, 4, 4, 4)
    uneven = split_layers(costs, 4, [1000, 420, 1000, 1000])
    assert uneven[1] < 4
    assert kv_tokens(costs, uneven, [1000, 420, 1000, 1000]) > kv_tokens(
        costs, even, [1000, 420, 1000, 1000]
    )


def test_layers_without_experts_weigh_less() -> None:
    """The first half is dense: it goes onto fewer stages."""
    config = parse_model_config(
        {
            "architectures": ["Qwen3MoeForCausalLM"],
            "vocab_size": 100,
            "hidden_size": 64,
            "intermediate_size": 64,
            "moe_intermediate_size": 64,
            "num_experts": 16,
            "num_hidden_layers": 12,
            "num_attention_heads": 4,
            "mlp_only_layers": [0, 1, 2, 3, 4, 5],
        },
        "config.json",
    )
    split = split_layers(derive_split_costs(config), 3)
    assert sum(split) == 12
    assert split[0] > 6
    assert max(split[1:]) <= 3


class TestTheGround:
    """Qwen2.5-32B's shape in bfloat16, four GPUs of 24,564 MiB: contexts, NCCL and buffers take
    about 1,100 MiB of each."""

    ROOM = (24_564 - 1_100) * MIB

    @staticmethod
    def costs() -> SplitCosts:
        return derive_split_costs(load_model_config(SHAPES / "Qwen2.5-32B"))

    def test_whole_layers(self) -> None:
        costs, rooms = self.costs(), [self.ROOM] * 4
        split = split_layers(costs, 4, rooms)
        assert split == (15, 17, 17, 15)
        assert kv_tokens(costs, split, rooms) == 115_260
        assert kv_tokens(costs, (16, 16, 16, 16), rooms) == 113_584

    def test_embedding_rows_in_host_memory_alone_gain_nothing(self) -> None:
        """Some stage still has 17 layers, or 16 and the head."""
        costs, rooms = replace(self.costs(), embedding_bytes=0), [self.ROOM] * 4
        split = split_layers(costs, 4, rooms)
        assert kv_tokens(costs, split, rooms) == 115_260

    def test_cuts_within_layers(self) -> None:
        costs, rooms = replace(self.costs(), embedding_bytes=0), [self.ROOM] * 4
        cut = cut_model(costs, 4, rooms)
        assert cut == ModelCut((17, 16, 16, 15), (True, False, False, False))
        assert kv_tokens_of_parts(costs, cut, rooms) == 124_384

    def test_with_the_head_split_over_the_stages_as_well(self) -> None:
        costs = self.costs()
        rooms = [self.ROOM - costs.head_bytes // 4] * 4
        costs = replace(costs, embedding_bytes=0, head_bytes=0, head_seconds=0.0)
        split = split_layers(costs, 4, rooms)
        assert split == (16, 16, 16, 16)
        assert kv_tokens(costs, split, rooms) == 131_404


@pytest.mark.parametrize(
    ("name", "num_stages"), [("Llama-2-70B", 8), ("Qwen3-235B-A22B", 8), ("Mixtral-8x7B", 8)]
)
def test_large_models_are_split_in_a_moment(name: str, num_stages: int) -> None:
    costs = derive_split_costs(load_model_config(SHAPES / name))
    rooms = [int(1.2 * sum(costs.layer_bytes) / num_stages)] * num_stages
    split = cut_model(costs, num_stages, rooms).layers_of_stage
    assert sum(split) == len(costs.layer_bytes)
    assert max(split) - min(split) <= 3
