"""What the stages of a dense model cost: each reads its layers, the last one the LM head too."""

from __future__ import annotations

from pipemax_worker.contract.geometry import KVGeometry
from pipemax_worker.contract.model_config import parse_model_config
from pipemax_worker.performance.stage_costs import derive_stage_costs

CONFIG = parse_model_config(
    {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 1000,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "config.json",
)
ATTENTION, MLP = 2 * 64 * 64 + 2 * 64 * 32, 3 * 64 * 96
TABLE = 1000 * 64
COSTS = derive_stage_costs(CONFIG, KVGeometry(16, "bfloat16", 2, 16, (3, 2), 10, 0, 0), "bfloat16")


def test_the_embedding_is_looked_up_and_not_read() -> None:
    assert COSTS[0].weight_bytes == 2 * 3 * (ATTENTION + MLP)
    assert COSTS[0].num_parameters == 3 * (ATTENTION + MLP)
    assert COSTS[0].num_head_parameters == 0


def test_the_head_is_read_every_step_and_multiplied_with_sampled_rows_alone() -> None:
    assert COSTS[1].weight_bytes == 2 * (2 * (ATTENTION + MLP) + TABLE)
    assert COSTS[1].num_parameters == 2 * (ATTENTION + MLP)
    assert COSTS[1].num_head_parameters == TABLE


def test_an_mlp_left_to_the_next_stage_is_read_there() -> None:
    geometry = KVGeometry(16, "bfloat16", 2, 16, (3, 2), 10, 0, 0, mlp_left_by_stage=(True, False))
    first, second = derive_stage_costs(CONFIG, geometry, "bfloat16")
    assert first.num_parameters == 3 * ATTENTION + 2 * MLP
    assert first.weight_bytes == 2 * first.num_parameters
    assert second.num_parameters == 2 * ATTENTION + 3 * MLP
    assert second.weight_bytes == 2 * (second.num_parameters + TABLE)
    for cut, whole in zip((first, second), COSTS, strict=True):
        assert cut.kv_bytes_per_token == whole.kv_bytes_per_token
        assert cut.attention_width == whole.attention_width


def test_attention_goes_by_the_layers_of_the_stage() -> None:
    assert [cost.attention_width for cost in COSTS] == [3 * 4 * 16, 2 * 4 * 16]
    assert [cost.kv_bytes_per_token for cost in COSTS] == [3 * 2 * 2 * 16 * 2, 2 * 2 * 2 * 16 * 2]
    assert [cost.num_layers for cost in COSTS] == [3, 2]


def test_a_dense_model_has_no_experts() -> None:
    assert all(cost.experts is None for cost in COSTS)
