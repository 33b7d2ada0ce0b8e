"""Which parts are whose."""

from __future__ import annotations

import msgspec
import pytest
from pipemax_worker.contract.geometry import KVGeometry
from pipemax_worker.contract.model_config import ModelConfig, parse_model_config
from pipemax_worker.contract.model_cut import ModelCut
from pipemax_worker.contract.weights import device_weight_bytes, weight_bytes

CONFIG = parse_model_config(
    {
        "architectures": ["Qwen3MoeForCausalLM"],
        "vocab_size": 100,
        "hidden_size": 64,
        "intermediate_size": 96,
        "moe_intermediate_size": 32,
        "num_experts": 8,
        "decoder_sparse_step": 2,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
    "config.json",
)
ATTENTION, TABLE = 4 * 64 * 64, 100 * 64
DENSE, EXPERTS = 3 * 64 * 96, 8 * 3 * 64 * 32 + 8 * 64


def test_whole_layers() -> None:
    cut = ModelCut((1, 3))
    assert cut.num_stages == 2
    assert cut.layers(0) == (range(1), range(1))
    assert cut.layers(1) == (range(1, 4), range(1, 4))
    assert cut == ModelCut((1, 3), ())


def test_an_mlp_left_is_the_next_stages() -> None:
    cut = ModelCut((2, 1, 1), (True, True, False))
    assert [cut.layers(stage).attention for stage in range(3)] == [
        range(2), range(2, 3), range(3, 4),
    ]  # fmt: skip
    assert [cut.layers(stage).mlp for stage in range(3)] == [range(1), range(1, 2), range(2, 4)]


@pytest.mark.parametrize(("left", "described"), [((), "2/1/1"), ((True, False, False), "2-/1/1")])
def test_as_text(left: tuple[bool, ...], described: str) -> None:
    assert ModelCut((2, 1, 1), left).describe() == described


def weights_of(config: ModelConfig, cut: ModelCut) -> list[int]:
    return [weight_bytes(config, cut, stage, "bfloat16") for stage in range(cut.num_stages)]


def test_weights_follow_the_parts() -> None:
    """Layers 1 and 3 have experts."""
    left = ModelCut((2, 1, 1), (True, False, False))
    assert weights_of(CONFIG, left) == [
        2 * (2 * ATTENTION + DENSE + TABLE),
        2 * (ATTENTION + EXPERTS + DENSE),
        2 * (ATTENTION + EXPERTS + TABLE),
    ]
    assert sum(weights_of(CONFIG, left)) == sum(weights_of(CONFIG, ModelCut((2, 1, 1))))
    on_gpu = device_weight_bytes(CONFIG, left, 0, "bfloat16", "cuda")
    assert on_gpu == 2 * (2 * ATTENTION + DENSE)


def test_kv_is_the_attentions() -> None:
    whole = KVGeometry(16, "bfloat16", 4, 16, (2, 1, 1), 8, 0, 0)
    left = msgspec.structs.replace(whole, mlp_left_by_stage=(True, True, False))
    assert left.cut == ModelCut((2, 1, 1), (True, True, False))
    assert [left.slot_bytes(stage) for stage in range(3)] == [
        whole.slot_bytes(stage) for stage in range(3)
    ]


def test_a_geometry_written_before_there_were_such_cuts() -> None:
    """KV files that an earlier run has parked name theirs."""
    fields = msgspec.to_builtins(KVGeometry(16, "bfloat16", 4, 16, (2, 2), 8, 0, 0))
    del fields["mlp_left_by_stage"]
    assert msgspec.convert(fields, KVGeometry).cut == ModelCut((2, 2))
