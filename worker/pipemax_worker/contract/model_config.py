"""A model's ``config.json`` as plain numbers, read without torch or transformers.

``AutoConfig`` would load torch (550-700 MB) into the driver; this reads the few fields we need and
refuses, by name, what we do not support. Field names are Hugging Face's own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from pipemax_worker.errors import ModelNotFoundError, UnsupportedModelError

SUPPORTED_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}


class ModelConfig(msgspec.Struct, frozen=True):
    """The shape of a decoder-only transformer.

    sliding_windows   one entry a layer: how many positions it sees, or None for all.
    rope_parameters   Hugging Face's dictionary (``rope_type``, ``rope_theta``, ``factor``, ...).
    eos_token_ids     from ``config.json`` and ``generation_config.json``, both together.
    raw               the whole ``config.json``, for transformers' RoPE functions in a stage.
    """

    architecture: str
    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_act: str
    rms_norm_eps: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    has_qkv_bias: bool
    has_output_bias: bool
    has_mlp_bias: bool
    has_qk_norm: bool
    sliding_windows: tuple[int | None, ...]
    rope_parameters: dict[str, Any]
    torch_dtype: str
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    raw: dict[str, Any]

    @property
    def attention_parameters(self) -> int:
        """Parameters of one layer's attention."""
        width = (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim
        return self.hidden_size * (width + self.num_attention_heads * self.head_dim)

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer's matrices (norms and biases are left out)."""
        return self.attention_parameters + 3 * self.hidden_size * self.intermediate_size

    @property
    def embedding_parameters(self) -> int:
        return self.vocab_size * self.hidden_size

    @property
    def kv_bytes_per_token_and_layer_element(self) -> int:
        """Elements of KV for one token in one layer: keys and values together."""
        return 2 * self.num_key_value_heads * self.head_dim


def load_model_config(folder: Path) -> ModelConfig:
    """Read ``folder/config.json``.

    Raises ModelNotFoundError (no such file, not JSON) and UnsupportedModelError (architecture,
    activation, quantisation or RoPE type that we do not run; the message lists what we do run).
    """
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelNotFoundError(f"{path}: not found; a model folder holds config.json") from None
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(f"{path}: cannot be read as JSON: {error}") from error
    return parse_model_config(raw, str(path), _generation_eos(folder))


def _generation_eos(folder: Path) -> tuple[int, ...]:
    try:
        generation = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    return _token_ids(generation.get("eos_token_id"))


def _token_ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def parse_model_config(
    raw: dict[str, Any], where: str, generation_eos: tuple[int, ...] = ()
) -> ModelConfig:
    """Build a :class:`ModelConfig` from the dictionary; ``where`` names the file in errors."""
    architecture = next(
        (name for name in raw.get("architectures") or () if name in SUPPORTED_ARCHITECTURES), None
    )
    if architecture is None:
        raise UnsupportedModelError(
            f"{where}: architectures {raw.get('architectures')} is not supported; "
            f"supported: {', '.join(sorted(SUPPORTED_ARCHITECTURES))}"
        )
    if "quantization_config" in raw:
        raise UnsupportedModelError(
            f"{where}: quantised weights (quantization_config) are not supported; "
            "use the model's unquantised weights"
        )
    if raw.get("hidden_act", "silu") != "silu":
        raise UnsupportedModelError(
            f"{where}: hidden_act {raw['hidden_act']!r} is not supported; supported: 'silu'"
        )
    kind = SUPPORTED_ARCHITECTURES[architecture]
    num_layers = raw["num_hidden_layers"]
    num_heads = raw["num_attention_heads"]
    return ModelConfig(
        architecture=architecture,
        model_type=kind,
        vocab_size=raw["vocab_size"],
        hidden_size=raw["hidden_size"],
        intermediate_size=raw["intermediate_size"],
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=raw.get("num_key_value_heads") or num_heads,
        head_dim=raw.get("head_dim") or raw["hidden_size"] // num_heads,
        hidden_act="silu",
        rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
        max_position_embeddings=raw.get("max_position_embeddings", 2048),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        has_qkv_bias=kind == "qwen2" or bool(raw.get("attention_bias", False)),
        has_output_bias=kind != "qwen2" and bool(raw.get("attention_bias", False)),
        has_mlp_bias=bool(raw.get("mlp_bias", False)),
        has_qk_norm=kind == "qwen3",
        sliding_windows=_sliding_windows(raw, kind, num_layers),
        rope_parameters=_rope_parameters(raw),
        torch_dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
        bos_token_id=raw.get("bos_token_id"),
        eos_token_ids=tuple(dict.fromkeys((*_token_ids(raw.get("eos_token_id")), *generation_eos))),
        raw=raw,
    )


def _sliding_windows(raw: dict[str, Any], kind: str, num_layers: int) -> tuple[int | None, ...]:
    window = raw.get("sliding_window")
    if kind == "llama" or window is None:
        return (None,) * num_layers
    if kind == "mistral":
        return (window,) * num_layers
    if not raw.get("use_sliding_window", False):
        return (None,) * num_layers
    layer_types = raw.get("layer_types")
    if layer_types is None:
        first = raw.get("max_window_layers", num_layers)
        return tuple(window if layer >= first else None for layer in range(num_layers))
    return tuple(window if kind_ == "sliding_attention" else None for kind_ in layer_types)


def _rope_parameters(raw: dict[str, Any]) -> dict[str, Any]:
    parameters = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    parameters.setdefault("rope_type", parameters.pop("type", "default"))
    parameters.setdefault("rope_theta", raw.get("rope_theta", 10000.0))
    return parameters
