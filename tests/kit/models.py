"""Tiny models with random weights, written as Hugging Face folders by transformers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

VOCAB_SIZE = 96

SMALL: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,
}

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}

EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-bias": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama3-rope": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "llama-yarn": ("llama", {"rope_parameters": YARN_ROPE}),
    "llama-linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}),
    "llama-wide-heads": ("llama", {"head_dim": 20}),
    "llama-mha": ("llama", {"num_key_value_heads": 4}),
    "mistral": ("mistral", {"sliding_window": 7}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-sliding": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2},
    ),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3-bias": ("qwen3", {"head_dim": 24, "attention_bias": True}),
    "mixtral": ("mixtral", {"num_local_experts": 5, "sliding_window": 9}),
    "qwen3-moe": (
        "qwen3_moe",
        {**EXPERTS, "head_dim": 16, "norm_topk_prob": True, "decoder_sparse_step": 2},
    ),
    "qwen3-moe-raw": ("qwen3_moe", {**EXPERTS, "mlp_only_layers": [1], "attention_bias": True}),
}
"""Name -> (model type, what differs from ``SMALL``)."""


def build_oracle(name: str, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """The named model of ``MODELS`` in float32, every parameter random, biases and norms too."""
    model_type, changes = MODELS[name]
    config = CONFIG_MAPPING[model_type](**{**SMALL, **changes, **overrides})
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # made as all zeros or ones, which would hide mistakes
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.eval()


def save_model(
    folder: Path, name: str, max_shard_size: str = "5GB", seed: int = 0, **overrides: Any
) -> Path:
    """Write the named model's folder; a small ``max_shard_size`` makes many shards."""
    build_oracle(name, seed, **overrides).save_pretrained(folder, max_shard_size=max_shard_size)
    return folder
