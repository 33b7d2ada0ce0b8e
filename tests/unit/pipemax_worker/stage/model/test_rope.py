"""RoPE variants against the cosines and sines of transformers' own models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kit.models import LLAMA3_ROPE, SMALL, YARN_ROPE
from pipemax_worker.contract.model_config import load_model_config
from pipemax_worker.stage.model.rope import RotaryEmbedding
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 5e5},
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    "llama3": LLAMA3_ROPE,
    "yarn": YARN_ROPE,
    "yarn-scaled": {**YARN_ROPE, "attention_factor": 0.7, "beta_fast": 20},
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0, 1.5, 2.0, 3.0],
        "long_factor": [2.0, 3.0, 4.0, 9.0],
        "original_max_position_embeddings": 64,
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_equals_transformers(name: str, tmp_path: Path) -> None:
    """For all positions up to the longest context that we allow."""
    oracle_config = LlamaConfig(**SMALL, rope_parameters=dict(VARIANTS[name]))
    oracle_config.architectures = ["LlamaForCausalLM"]
    oracle_config.save_pretrained(tmp_path)
    config = load_model_config(tmp_path)
    positions = torch.arange(config.max_position_embeddings)
    cos, sin = RotaryEmbedding(config, torch.device("cpu"), torch.float32)(positions)
    oracle = LlamaRotaryEmbedding(oracle_config)
    expected_cos, expected_sin = oracle(torch.zeros(1), positions[None])
    half = config.head_dim // 2
    assert torch.equal(cos, expected_cos[0, :, :half])
    assert torch.equal(sin, expected_sin[0, :, :half])
    table = RotaryEmbedding(config, torch.device("cpu"), torch.bfloat16).table(len(positions))
    assert torch.equal(table, torch.cat((cos, sin), dim=1))


def test_longrope_is_held_to_its_original_context(tmp_path: Path) -> None:
    oracle_config = LlamaConfig(**SMALL, rope_parameters=dict(VARIANTS["longrope"]))
    oracle_config.architectures = ["LlamaForCausalLM"]
    oracle_config.save_pretrained(tmp_path)
    assert load_model_config(tmp_path).max_position_embeddings == 64


def test_angles_take_the_compute_dtype(tmp_path: Path) -> None:
    LlamaConfig(**SMALL, architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    config = load_model_config(tmp_path)
    cos, sin = RotaryEmbedding(config, torch.device("cpu"), torch.bfloat16)(torch.arange(3))
    assert cos.dtype == sin.dtype == torch.bfloat16
    assert cos.shape == (3, 4)
