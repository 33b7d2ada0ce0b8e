"""Mixtures of experts: what a step reads depends on how many experts its tokens touch."""

import json
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipemax_worker.contract.geometry import KVGeometry
from pipemax_worker.contract.model_config import ModelConfig, parse_model_config
from pipemax_worker.performance.batch_shape import BatchShape
from pipemax_worker.performance.experts import ExpertLayers, derive_experts
from pipemax_worker.performance.hardware import HardwareProfile
from pipemax_worker.performance.stage_costs import derive_stage_costs
from pipemax_worker.performance.step_cost import RooflineCost, StageCost
from pipemax_worker.performance.step_table import GemmTable, TableCost

SHAPES = Path(__file__).parents[4] / "tools" / "shapes"
PROFILE = HardwareProfile("round", 1e12, 1e14, 1e10, 1e10, 1e9, 1e9, 0.0)
EXPERTS = ExpertLayers(num_parameters=8_000_000_000, num_experts=8, experts_per_token=2)
STAGE = StageCost(18_000_000_000, 1_000_000_000, 0, experts=EXPERTS)


def load_shape(name: str) -> ModelConfig:
    raw = json.loads((SHAPES / name / "config.json").read_text(encoding="utf-8"))
    return parse_model_config(raw, name)


def decode(num_requests: int) -> BatchShape:
    return BatchShape(num_requests, 0, num_requests)


def test_the_expected_share_is_what_random_routing_touches() -> None:
    generator = random.Random(1)
    for num_tokens in (1, 4, 16):
        touched = [
            len({e for _ in range(num_tokens) for e in generator.sample(range(8), 2)}) / 8
            for _ in range(2000)
        ]
        mean = sum(touched) / len(touched)
        assert EXPERTS.touched_share(num_tokens) == pytest.approx(mean, abs=0.01)


@given(st.integers(1, 5000), st.integers(1, 128), st.data())
def test_rows_of_the_touched_experts_are_those_of_all_tokens(
    num_tokens: int, num_experts: int, data: st.DataObject
) -> None:
    per_token = data.draw(st.integers(1, num_experts))
    experts = ExpertLayers(1, num_experts, per_token)
    share = experts.touched_share(num_tokens)
    assert per_token / num_experts <= share + 1e-12 <= 1.0 + 2e-12
    rows = experts.rows_per_expert(num_tokens)
    num_pairs = num_tokens * per_token
    assert num_pairs <= rows * share * num_experts * (1 + 1e-9)
    assert rows <= num_tokens


def test_one_token_reads_its_own_experts_and_many_read_all() -> None:
    cost = RooflineCost(PROFILE, [STAGE])
    assert cost.stage_seconds(decode(1), 0) == pytest.approx((2e9 + 16e9 / 4) / 1e12)
    assert cost.stage_seconds(decode(40), 0) == pytest.approx(18e9 / 1e12, rel=1e-3)


def test_a_large_batch_is_multiplied_with_the_active_parameters_alone() -> None:
    cost = RooflineCost(PROFILE, [STAGE])
    seconds = cost.stage_seconds(decode(10_000), 0)
    assert seconds == pytest.approx(2 * 10_000 * 3e9 / 1e14, rel=1e-3)
    assert STAGE.num_active_parameters == 3_000_000_000


def test_the_knee_lies_where_active_parameters_take_as_long_as_the_reading() -> None:
    """Nine are read where three are multiplied."""
    dense = RooflineCost(PROFILE, [StageCost(18_000_000_000, 9_000_000_000, 0)])
    assert RooflineCost(PROFILE, [STAGE]).knee_tokens == pytest.approx(
        3 * dense.knee_tokens, rel=0.02
    )


def test_a_table_takes_each_touched_expert_for_a_product_of_its_own_rows() -> None:
    table = GemmTable(1_000_000_000, ((1, 1e-3), (100, 1e-3), (200, 2e-3)))
    cost = TableCost(PROFILE, table, [STAGE])
    assert cost.stage_seconds(decode(1), 0) == pytest.approx(2e-3 + 4e-3)
    # 400 tokens: 400 rows of the dense part, 100 of each of eight experts
    assert cost.stage_seconds(decode(400), 0) == pytest.approx(2 * 4e-3 + 16e-3)


@pytest.mark.parametrize("table", [False, True])
def test_more_tokens_never_cost_less(table: bool) -> None:
    points = tuple((n, 1e-3 * max(1.0, n / 150)) for n in (1, 150, 300, 600))
    gemm = GemmTable(1_000_000_000, points)
    cost = TableCost(PROFILE, gemm, [STAGE]) if table else RooflineCost(PROFILE, [STAGE])
    seconds = [cost.stage_seconds(decode(n), 0) for n in range(1, 400)]
    assert seconds == sorted(seconds)


def test_cards_that_share_a_stage_share_its_experts() -> None:
    half = STAGE.shared_by(2, kv_share=0.5)
    assert half.expert_bytes == STAGE.expert_bytes // 2
    assert half.num_active_parameters == STAGE.num_active_parameters // 2


# --- from config.json


@pytest.mark.parametrize(
    ("name", "billions", "active_billions"),
    [("Mixtral-8x7B", 46.7, 12.9), ("Qwen3-235B-A22B", 235.0, 22.0)],
)
def test_the_papers_models_have_the_published_sizes(
    name: str, billions: float, active_billions: float
) -> None:
    config = load_shape(name)
    stages = derive_stage_costs(config, make_geometry(config), "bfloat16")
    head = config.embedding_parameters
    held = sum(stage.weight_bytes for stage in stages) / 2 + head  # and the embedding
    active = sum(stage.num_active_parameters for stage in stages) + 2 * head
    assert held / 1e9 == pytest.approx(billions, rel=0.01)
    assert active / 1e9 == pytest.approx(active_billions, rel=0.02)


def make_geometry(config: ModelConfig, kv_dtype: str = "bfloat16") -> KVGeometry:
    each, more = divmod(config.num_hidden_layers, 8)
    layers = tuple(each + (stage < more) for stage in range(8))
    return KVGeometry(16, kv_dtype, config.num_key_value_heads, config.head_dim, layers, 100, 0, 0)


def test_dense_layers_among_sparse_ones_have_no_experts() -> None:
    raw = load_shape("Qwen3-235B-A22B").raw | {"mlp_only_layers": [0, 2]}
    config = parse_model_config(raw, "config.json")
    assert derive_experts(config, [0, 2]) is None
    mixed = derive_experts(config, range(4))
    assert mixed is not None
    assert mixed.num_parameters == 2 * 128 * 3 * 4096 * 1536


def test_fp8_kv_is_read_in_half_the_time() -> None:
    config = load_shape("Mixtral-8x7B")
    shape, nothing = BatchShape(1, 100_000, 1), BatchShape(1, 0, 1)
    seconds = []
    for kv_dtype in ("bfloat16", "fp8_e4m3"):
        stages = derive_stage_costs(config, make_geometry(config, kv_dtype), "bfloat16")
        cost = RooflineCost(PROFILE, stages)
        seconds.append(cost.stage_seconds(shape, 0) - cost.stage_seconds(nothing, 0))
    assert seconds[1] == pytest.approx(seconds[0] / 2)


def test_a_cost_without_experts_is_what_it_was() -> None:
    dense = msgspec.structs.replace(STAGE, experts=None)
    assert dense.expert_bytes == 0
    assert dense.num_active_parameters == dense.num_parameters
