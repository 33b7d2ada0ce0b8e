"""A model's ``config.json`` as plain numbers, read without torch or transformers.

``AutoConfig`` would load torch (550-700 MB) into the driver; this reads the few fields we need and
refuses, by name, what we do not support. Field names are Hugging Face's own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from pipemax_worker.contract.experts import ExpertsConfig, read_experts
from pipemax_worker.contract.rope_parameters import longest_context, read_rope_parameters
from pipemax_worker.errors import ModelNotFoundError, UnsupportedModelError

SUPPORTED_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "MixtralForCausalLM": "mixtral",
    "Qwen3MoeForCausalLM": "qwen3_moe",
}

_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)

_CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
    "mistral": {
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "qwen2": {
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    "qwen3": {
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    "mixtral": {
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "qwen3_moe": {
        "max_position_embeddings": 32768,
        "num_key_value_heads": 4,
        "sliding_window": 4096,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
    },
}
"""What transformers assumes where ``config.json`` does not name a field (null is another thing)."""


class ModelConfig(msgspec.Struct, frozen=True):
    """The shape of a decoder-only transformer.

    max_position_embeddings   the longest context that the model is run with. For longrope that is
                      ``original_max_position_embeddings``: beyond it transformers' frequencies
                      depend on the length of whatever is in the batch.
    sliding_windows   one entry a layer: how many positions it sees, or None for all.
    rope_parameters   Hugging Face's dictionary (``rope_type``, ``rope_theta``, ``factor``, ...).
    eos_token_ids     from ``config.json`` and ``generation_config.json``, both together.
    raw               the whole ``config.json``, for transformers' RoPE functions in a stage.
    experts           of the layers that have a mixture of experts in place of one MLP, or None.
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
    experts: ExpertsConfig | None = None

    def has_experts(self, layer: int) -> bool:
        """Whether ``layer``, counted from 0, is a mixture of experts."""
        return self.experts is not None and self.experts.is_in(layer)

    def stored_layer_parameters(self, layer: int) -> int:
        """Parameters of this layer's matrices, those of all experts and the router included."""
        return self.attention_parameters + self.stored_mlp_parameters(layer)

    def stored_mlp_parameters(self, layer: int) -> int:
        """Of this layer's matrices those that follow its attention: the MLP's, or those of all
        experts and the router."""
        if self.experts is None or not self.experts.is_in(layer):
            return 3 * self.hidden_size * self.intermediate_size
        return self.experts.stored_parameters(self.hidden_size)

    def active_layer_parameters(self, layer: int) -> int:
        """Parameters of this layer's matrices that one token is multiplied with."""
        if self.experts is None or not self.experts.is_in(layer):
            return self.stored_layer_parameters(layer)
        return self.attention_parameters + self.experts.active_parameters(self.hidden_size)

    @property
    def attention_parameters(self) -> int:
        """Parameters of one layer's attention."""
        width = (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim
        return self.hidden_size * (width + self.num_attention_heads * self.head_dim)

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer's matrices (norms and biases are left out), the mean of all
        layers where they differ; with experts, of all of them."""
        layers = range(self.num_hidden_layers)
        return sum(map(self.stored_layer_parameters, layers)) // self.num_hidden_layers

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
    architecture = _supported_architecture(raw, where)
    kind = SUPPORTED_ARCHITECTURES[architecture]
    fields = {**_CLASS_DEFAULTS[kind], **raw}
    _check_sizes(fields, where)
    num_layers, num_heads = fields["num_hidden_layers"], fields["num_attention_heads"]
    rope_parameters = read_rope_parameters(fields, where)
    has_bias = kind in ("llama", "qwen3", "qwen3_moe") and bool(fields.get("attention_bias", False))
    return ModelConfig(
        architecture=architecture,
        model_type=kind,
        vocab_size=fields["vocab_size"],
        hidden_size=fields["hidden_size"],
        intermediate_size=fields["intermediate_size"],
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=fields.get("num_key_value_heads") or num_heads,
        head_dim=fields.get("head_dim") or fields["hidden_size"] // num_heads,
        hidden_act="silu",
        rms_norm_eps=fields.get("rms_norm_eps", 1e-6),
        max_position_embeddings=longest_context(fields, rope_parameters),
        tie_word_embeddings=bool(fields.get("tie_word_embeddings", False)),
        has_qkv_bias=kind == "qwen2" or has_bias,
        has_output_bias=has_bias,
        has_mlp_bias=kind == "llama" and bool(fields.get("mlp_bias", False)),
        has_qk_norm=kind in ("qwen3", "qwen3_moe"),
        sliding_windows=_sliding_windows(fields, kind, num_layers),
        rope_parameters=rope_parameters,
        torch_dtype=_dtype(fields),
        bos_token_id=fields.get("bos_token_id"),
        eos_token_ids=tuple(
            dict.fromkeys((*_token_ids(fields.get("eos_token_id")), *generation_eos))
        ),
        raw=raw,
        experts=read_experts(fields, kind, where),
    )


def _supported_architecture(raw: Any, where: str) -> str:
    """The architecture; raises UnsupportedModelError for what no later check would notice."""
    if not isinstance(raw, dict):
        raise UnsupportedModelError(f"{where}: must hold a JSON object, holds {type(raw).__name__}")
    architecture: str | None = next(
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
    return architecture


def _check_sizes(fields: dict[str, Any], where: str) -> None:
    for name in _REQUIRED:
        value = fields.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            found = repr(value) if name in fields else "nothing"
            raise UnsupportedModelError(f"{where}: {name} must be a positive integer, not {found}")
    num_heads = fields["num_attention_heads"]
    num_kv_heads = fields.get("num_key_value_heads") or num_heads
    if num_heads % num_kv_heads:
        raise UnsupportedModelError(
            f"{where}: num_attention_heads ({num_heads}) must be a multiple of "
            f"num_key_value_heads ({num_kv_heads})"
        )


def _dtype(fields: dict[str, Any]) -> str:
    """``dtype`` since transformers 5, ``torch_dtype`` before."""
    name = fields.get("dtype") or fields.get("torch_dtype") or "float32"
    return str(name).removeprefix("torch.")


def _sliding_windows(fields: dict[str, Any], kind: str, num_layers: int) -> tuple[int | None, ...]:
    window = fields.get("sliding_window")
    if kind == "llama" or window is None:
        return (None,) * num_layers
    if kind in ("mistral", "mixtral"):
        return (window,) * num_layers
    if not fields.get("use_sliding_window", False):
        return (None,) * num_layers
    if kind == "qwen3_moe":
        return (window,) * num_layers
    layer_types = fields.get("layer_types")
    if layer_types is None:
        first = fields["max_window_layers"]
        return tuple(window if layer >= first else None for layer in range(num_layers))
    return tuple(window if kind_ == "sliding_attention" else None for kind_ in layer_types)
