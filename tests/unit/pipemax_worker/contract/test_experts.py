"""Which layers have experts, how many and how large: as transformers builds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pipemax_worker.contract.experts import ExpertsConfig
from pipemax_worker.contract.model_config import load_model_config, parse_model_config
from pipemax_worker.errors import UnsupportedModelError
from transformers import (
    AutoModelForCausalLM,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3MoeConfig,
)

SHAPES = Path(__file__).parents[4] / "tools/shapes"
MIXTRAL: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}
QWEN3_MOE = {**MIXTRAL, "architectures": ["Qwen3MoeForCausalLM"], "moe_intermediate_size": 16}


def build_without_memory(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def as_saved(config: PreTrainedConfig, folder: Path) -> dict[str, Any]:
    config.save_pretrained(folder)
    raw: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return raw


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mlp_only_layers": [0, 3]},
        {"decoder_sparse_step": 2},
        {"decoder_sparse_step": 3, "mlp_only_layers": [2]},
        {"decoder_sparse_step": 7},
    ],
    ids=str,
)
def test_qwen_layers_and_parameters(changes: dict[str, Any], tmp_path: Path) -> None:
    oracle_config = Qwen3MoeConfig(**{**QWEN3_MOE, "num_experts": 4, "num_experts_per_tok": 2})
    for name, value in changes.items():
        setattr(oracle_config, name, value)
    oracle = build_without_memory(oracle_config)
    config = parse_model_config(as_saved(oracle_config, tmp_path), "config.json")
    for index, layer in enumerate(oracle.model.layers):
        assert config.has_experts(index) == hasattr(layer.mlp, "experts")
        matrices = sum(p.numel() for p in layer.parameters() if p.dim() > 1)
        assert config.stored_layer_parameters(index) == matrices
    layers = range(config.num_hidden_layers)
    mean = sum(map(config.stored_layer_parameters, layers)) // len(layers)
    assert config.layer_parameters == mean


@pytest.mark.parametrize("norm_topk_prob", [True, False])
@pytest.mark.parametrize("spelling", ["num_experts", "num_local_experts"])
def test_qwen_spellings(spelling: str, norm_topk_prob: bool) -> None:
    raw = {**QWEN3_MOE, spelling: 6, "num_experts_per_tok": 3, "norm_topk_prob": norm_topk_prob}
    experts = parse_model_config(raw, "config.json").experts
    assert experts == ExpertsConfig(6, 3, 16, norm_topk_prob, tuple(range(6)))


def test_mixtral_always_normalises(tmp_path: Path) -> None:
    raw = as_saved(MixtralConfig(**{**MIXTRAL, "num_local_experts": 4}), tmp_path)
    experts = parse_model_config(raw, "config.json").experts
    assert experts == ExpertsConfig(4, 2, 64, True, tuple(range(6)))


@pytest.mark.parametrize(
    ("name", "stored", "active"),
    [("Mixtral-8x7B", 46.7e9, 12.9e9), ("Qwen3-235B-A22B", 235e9, 22e9)],
)
def test_known_models(name: str, stored: float, active: float) -> None:
    config = load_model_config(SHAPES / name)
    tables = 2 * config.embedding_parameters
    layers = range(config.num_hidden_layers)
    assert sum(map(config.stored_layer_parameters, layers)) + tables == pytest.approx(
        stored, rel=0.01
    )
    assert sum(map(config.active_layer_parameters, layers)) + tables == pytest.approx(
        active, rel=0.02
    )


def test_no_expert_is_one_mlp() -> None:
    config = parse_model_config({**QWEN3_MOE, "num_experts": 0}, "config.json")
    assert config.experts is None
    assert config.active_layer_parameters(0) == config.stored_layer_parameters(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts_per_tok": 9}, r"num_experts_per_tok \(9\) must not be above .*\(8\)"),
        ({"num_local_experts": "8"}, "num_local_experts must be a positive integer, not '8'"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok must be a positive integer, not 0"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        parse_model_config({**MIXTRAL, **changes}, "config.json")


def test_refused_step() -> None:
    with pytest.raises(UnsupportedModelError, match="decoder_sparse_step must be a positive"):
        parse_model_config({**QWEN3_MOE, "decoder_sparse_step": 0}, "config.json")
