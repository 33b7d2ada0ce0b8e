"""How layers are split over stages."""

import itertools
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.fake_model import fake_model_config
from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.errors import UnsupportedModelError
from pipemax_worker.pipeline.partition import derive_split_costs, partition_layers


def make_config(num_layers: int, head_layers: float = 0.0) -> ModelConfig:
    """A model whose LM head costs as much as ``head_layers`` layers."""
    config = msgspec.structs.replace(fake_model_config(num_layers), intermediate_size=4096)
    vocab_size = round(head_layers * config.layer_parameters / config.hidden_size)
    return msgspec.structs.replace(config, vocab_size=vocab_size)


def slowest(split: tuple[int, ...], head_layers: float) -> float:
    return max(*split[:-1], split[-1] + head_layers)


def test_one_stage_has_all_layers() -> None:
    assert partition_layers(make_config(30, 8.0), 1) == (30,)


def test_without_embedding_the_split_is_even() -> None:
    assert sorted(partition_layers(make_config(10), 4)) == [2, 2, 3, 3]


def test_the_last_stage_pays_for_the_head_with_layers() -> None:
    """SmolLM2's shape: 30 layers and a head of 8."""
    assert partition_layers(make_config(30, 8.0), 2) == (19, 11)


def test_a_head_that_sees_half_of_the_rows_costs_half() -> None:
    assert partition_layers(make_config(30, 8.0), 2, head_share=0.5) == (17, 13)
    assert partition_layers(make_config(30, 8.0), 2, head_share=0.0) == (15, 15)


def test_among_equally_fast_splits_the_first_stage_has_fewer_layers_for_its_embedding() -> None:
    """Qwen2.5-32B's shape: 64 layers and a head of 1.6."""
    assert partition_layers(make_config(64, 1.6), 4) == (15, 17, 17, 15)


def test_gpus_look_the_embedding_up_in_host_memory() -> None:
    config = make_config(64, 1.6)
    on_cpu, on_gpu = (derive_split_costs(config, device=device) for device in ("cpu", "cuda"))
    assert on_cpu.embedding_bytes == on_cpu.head_bytes == 2 * config.embedding_parameters
    assert on_gpu == replace(on_cpu, embedding_bytes=0)


def test_a_head_heavier_than_all_layers_leaves_one_layer() -> None:
    assert partition_layers(make_config(6, 50.0), 3)[-1] == 1


def test_more_stages_than_layers_is_refused_with_the_limit() -> None:
    with pytest.raises(UnsupportedModelError, match="at most 4 stages, not 5"):
        partition_layers(make_config(4), 5)


def test_as_many_stages_as_layers() -> None:
    assert partition_layers(make_config(8, 3.0), 8) == (1,) * 8


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9), st.integers(2, 5), st.floats(0, 6))
def test_no_split_is_faster(num_layers: int, num_stages: int, head_layers: float) -> None:
    if num_stages > num_layers:
        return
    config = make_config(num_layers, head_layers)
    head = config.embedding_parameters / config.layer_parameters
    split = partition_layers(config, num_stages)
    assert sum(split) == num_layers
    assert min(split) >= 1
    best = min(
        slowest(candidate, head)
        for candidate in itertools.product(range(1, num_layers + 1), repeat=num_stages)
        if sum(candidate) == num_layers
    )
    assert slowest(split, head) == pytest.approx(best)
