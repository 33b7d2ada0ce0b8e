"""What follows attention in a layer: one gated MLP, or a mixture of experts."""

from __future__ import annotations

from typing import Protocol

import torch

from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.stage.model.checkpoint import WeightSource
from pipemax_worker.stage.model.experts import Experts
from pipemax_worker.stage.model.kernels import Kernels
from pipemax_worker.stage.model.linear import Linear, read_linear


class FeedForward(Protocol):
    @property
    def matrices(self) -> dict[str, Linear]:
        """Those that every row goes through, by what they are for."""
        ...

    @property
    def weight_bytes(self) -> int: ...

    def __call__(self, x: torch.Tensor, residual: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """Both [num_tokens, hidden] -> the same shape. The residual may be written to."""
        ...


class GatedMLP:
    """down(silu(gate(x)) up(x)) (SwiGLU, arXiv 2002.05202)."""

    def __init__(self, config: ModelConfig, weights: WeightSource, prefix: str) -> None:
        hidden, width = config.hidden_size, config.intermediate_size
        gate_and_up = dict.fromkeys((prefix + "gate_proj", prefix + "up_proj"), width)
        self._gate_up = read_linear(weights, gate_and_up, hidden, config.has_mlp_bias)
        self._down = read_linear(
            weights, {prefix + "down_proj": hidden}, width, config.has_mlp_bias
        )

    @property
    def matrices(self) -> dict[str, Linear]:
        return {"gate_up": self._gate_up, "down": self._down}

    @property
    def weight_bytes(self) -> int:
        return self._gate_up.weight_bytes + self._down.weight_bytes

    def __call__(self, x: torch.Tensor, residual: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        activated = kernels.silu_and_multiply(self._gate_up(x))
        return self._down(activated, residual=residual)


class MixtureOfExperts:
    """Each token through the experts that a router chooses for it."""

    def __init__(self, config: ModelConfig, weights: WeightSource, prefix: str) -> None:
        self._experts = Experts(config, weights, prefix)

    @property
    def matrices(self) -> dict[str, Linear]:
        return {}

    @property
    def weight_bytes(self) -> int:
        return self._experts.weight_bytes

    def __call__(self, x: torch.Tensor, residual: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        return kernels.mix_experts(x, self._experts, residual)


def read_feed_forward(config: ModelConfig, weights: WeightSource, layer: int) -> FeedForward:
    """That of ``layer``, counted from 0. Raises what reading raises."""
    prefix = f"model.layers.{layer}."
    if config.has_experts(layer):
        return MixtureOfExperts(config, weights, prefix)
    return GatedMLP(config, weights, prefix + "mlp.")
