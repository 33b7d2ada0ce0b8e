"""Rotary position embedding (RoFormer, arXiv 2104.09864) in the variants that models ship with.

The default form is computed here; every scaled form (linear, dynamic, yarn, llama3, longrope) comes
from transformers' own functions, which are loaded only for a model that needs them.
"""

from __future__ import annotations

import torch

from pipemax_worker.contract.model_config import ModelConfig


class RotaryEmbedding:
    """Cosines and sines for positions, scaled as the model's RoPE variant says."""

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
        inverse_frequencies, self._attention_scaling = _inverse_frequencies(config)
        self._inverse_frequencies = inverse_frequencies.to(device)  # [head_dim / 2] float32
        self._dtype = dtype

    def __call__(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``positions`` [num_tokens] -> cos and sin, each [num_tokens, head_dim / 2]."""
        angles = positions.float()[:, None] * self._inverse_frequencies
        cos = angles.cos() * self._attention_scaling
        sin = angles.sin() * self._attention_scaling
        return cos.to(self._dtype), sin.to(self._dtype)

    def table(self, num_positions: int) -> torch.Tensor:
        """Cosines, then sines, of the first positions: [num_positions, head_dim] float32."""
        positions = torch.arange(num_positions, device=self._inverse_frequencies.device)
        angles = positions.float()[:, None] * self._inverse_frequencies
        return torch.cat((angles.cos(), angles.sin()), dim=1) * self._attention_scaling


def _inverse_frequencies(config: ModelConfig) -> tuple[torch.Tensor, float]:
    rope_type = config.rope_parameters["rope_type"]
    if rope_type == "default":
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float) / config.head_dim
        return 1.0 / (config.rope_parameters["rope_theta"] ** exponents), 1.0
    return _scaled_inverse_frequencies(config, rope_type)


def _scaled_inverse_frequencies(config: ModelConfig, rope_type: str) -> tuple[torch.Tensor, float]:
    from transformers import CONFIG_MAPPING
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    hugging_face_config = CONFIG_MAPPING[config.model_type].from_dict(config.raw)
    frequencies, attention_scaling = ROPE_INIT_FUNCTIONS[rope_type](
        hugging_face_config, torch.device("cpu")
    )
    return frequencies, float(attention_scaling)
