"""``config.json``: what transformers writes is read back; what we do not run is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pipemax_worker.contract.model_config import load_model_config, parse_model_config
from pipemax_worker.errors import ModelNotFoundError, UnsupportedModelError
from transformers import (
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

ARCHITECTURES: dict[type[PreTrainedConfig], str] = {
    LlamaConfig: "LlamaForCausalLM",
    MistralConfig: "MistralForCausalLM",
    Qwen2Config: "Qwen2ForCausalLM",
    Qwen3Config: "Qwen3ForCausalLM",
    MixtralConfig: "MixtralForCausalLM",
    Qwen3MoeConfig: "Qwen3MoeForCausalLM",
}
MINIMAL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def minimal(**changes: Any) -> dict[str, Any]:
    return {**MINIMAL, **changes}


@pytest.mark.parametrize("config_class", ARCHITECTURES)
@pytest.mark.parametrize("is_written_short", [True, False], ids=["short", "whole"])
def test_reads_what_transformers_writes(
    config_class: type[PreTrainedConfig], is_written_short: bool, tmp_path: Path
) -> None:
    """Both as saved, and with only the fields that differ from the class's defaults."""
    oracle = config_class(
        architectures=[ARCHITECTURES[config_class]], vocab_size=500, num_hidden_layers=3
    )
    written = oracle.to_dict()
    if is_written_short:
        kept = ("architectures", "vocab_size", "num_hidden_layers", "hidden_size")
        kept += ("intermediate_size", "num_attention_heads")
        written = {name: written[name] for name in kept}
    (tmp_path / "config.json").write_text(json.dumps(written))
    config = load_model_config(tmp_path)
    oracle_head_dim = getattr(oracle, "head_dim", None)
    assert config.head_dim == oracle_head_dim or oracle_head_dim is None
    for name in ("max_position_embeddings", "rms_norm_eps", "tie_word_embeddings"):
        assert getattr(config, name) == getattr(oracle, name)
    if config_class is not LlamaConfig or not is_written_short:
        assert config.num_key_value_heads == oracle.num_key_value_heads
    expected_eos = () if oracle.eos_token_id is None else (oracle.eos_token_id,)
    assert config.eos_token_ids == expected_eos
    theta = 1e6 if config_class is MixtralConfig else 10000.0
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": theta}
    assert (config.experts is None) == (config_class not in (MixtralConfig, Qwen3MoeConfig))


class TestBiases:
    @pytest.mark.parametrize(
        ("architecture", "expected"),
        [
            ("Llama", (True, True, True)),
            ("Mistral", (False, False, False)),
            ("Qwen2", (True, False, False)),
            ("Qwen3", (True, True, False)),
            ("Mixtral", (False, False, False)),
            ("Qwen3Moe", (True, True, False)),
        ],
    )
    def test_as_transformers_builds_them(
        self, architecture: str, expected: tuple[bool, bool, bool]
    ) -> None:
        raw = minimal(
            architectures=[f"{architecture}ForCausalLM"],
            attention_bias=True,
            mlp_bias=True,
            num_key_value_heads=4,
        )
        config = parse_model_config(raw, "config.json")
        assert (config.has_qkv_bias, config.has_output_bias, config.has_mlp_bias) == expected


class TestSlidingWindows:
    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"architectures": ["MistralForCausalLM"], "sliding_window": 9}, (9, 9)),
            ({"architectures": ["MistralForCausalLM"], "sliding_window": None}, (None, None)),
            ({"architectures": ["MistralForCausalLM"]}, (4096, 4096)),
            ({"architectures": ["LlamaForCausalLM"], "sliding_window": 9}, (None, None)),
            ({"architectures": ["MixtralForCausalLM"], "sliding_window": 9}, (9, 9)),
            ({"architectures": ["MixtralForCausalLM"]}, (None, None)),
            (
                {
                    "architectures": ["Qwen3MoeForCausalLM"],
                    "sliding_window": 9,
                    "use_sliding_window": True,
                    "max_window_layers": 1,
                },
                (9, 9),
            ),
            ({"sliding_window": 9, "use_sliding_window": False}, (None, None)),
            (
                {"sliding_window": 9, "use_sliding_window": True, "max_window_layers": 1},
                (None, 9),
            ),
            (
                {
                    "sliding_window": 9,
                    "use_sliding_window": True,
                    "layer_types": ["sliding_attention", "full_attention"],
                },
                (9, None),
            ),
        ],
    )
    def test_each_layer(self, changes: dict[str, Any], expected: tuple[int | None, ...]) -> None:
        raw = minimal(
            **{"architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 2, **changes}
        )
        assert parse_model_config(raw, "config.json").sliding_windows == expected


class TestRope:
    @pytest.mark.parametrize(
        "changes",
        [
            {"rope_theta": 5000.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_theta": 5000.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}},
        ],
    )
    def test_old_and_new_spellings(self, changes: dict[str, Any]) -> None:
        parameters = parse_model_config(minimal(**changes), "config.json").rope_parameters
        assert parameters == {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}

    def test_null_scaling_is_none(self) -> None:
        raw = minimal(rope_scaling=None, rope_theta=1e6)
        parameters = parse_model_config(raw, "config.json").rope_parameters
        assert parameters == {"rope_type": "default", "rope_theta": 1e6}

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"rope_type": "axial"}, "of type default, linear, dynamic, yarn, llama3, longrope"),
            ({"full_attention": {"rope_type": "default"}}, "one set for all layers"),
            ({"rope_type": "llama3", "factor": 8.0}, "needs low_freq_factor, high_freq_factor"),
            ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ],
    )
    def test_refused(self, parameters: dict[str, Any], message: str) -> None:
        with pytest.raises(UnsupportedModelError, match=message):
            parse_model_config(minimal(rope_parameters=parameters), "config.json")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "float16"}, "float16"),
        ({"dtype": "torch.bfloat16"}, "bfloat16"),
        ({"dtype": None}, "float32"),
        ({}, "float32"),
    ],
)
def test_dtype(fields: dict[str, Any], expected: str) -> None:
    assert parse_model_config(minimal(**fields), "config.json").torch_dtype == expected


def test_eos_of_both_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(minimal(eos_token_id=[5, 6])))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [6, 7]}')
    assert load_model_config(tmp_path).eos_token_ids == (5, 6, 7)


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"architectures": ["GPT2LMHeadModel"]}, r"\['GPT2LMHeadModel'\] is not supported"),
            (
                {"architectures": None},
                "supported: LlamaForCausalLM, MistralForCausalLM, MixtralForCausalLM",
            ),
            ({"quantization_config": {"bits": 4}}, "quantised weights"),
            ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
            ({"hidden_size": "big"}, "hidden_size must be a positive integer, not 'big'"),
            ({"num_key_value_heads": 3}, r"\(4\) must be a multiple of num_key_value_heads \(3\)"),
        ],
    )
    def test_by_name(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(UnsupportedModelError, match=message):
            parse_model_config(minimal(**changes), "config.json")

    def test_missing_field(self) -> None:
        raw = minimal()
        del raw["hidden_size"]
        with pytest.raises(UnsupportedModelError, match=r"hidden_size .* not nothing"):
            parse_model_config(raw, "config.json")

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFoundError, match=r"config\.json: not found"):
            load_model_config(tmp_path)

    def test_no_json(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(ModelNotFoundError, match="cannot be read as JSON"):
            load_model_config(tmp_path)

    def test_no_object(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("[1]")
        with pytest.raises(UnsupportedModelError, match="must hold a JSON object, holds list"):
            load_model_config(tmp_path)
