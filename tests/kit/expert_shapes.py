"""One mixture of experts of any size, and what stands between its two products."""

from __future__ import annotations

import torch
from pipemax_worker.contract.model_config import ModelConfig, parse_model_config


def experts_config(num_experts: int, num_chosen: int, *, hidden: int, width: int) -> ModelConfig:
    """A model whose experts alone matter."""
    return parse_model_config(
        {
            "architectures": ["Qwen3MoeForCausalLM"],
            "vocab_size": 8,
            "hidden_size": hidden,
            "intermediate_size": 16,
            "moe_intermediate_size": width,
            "num_hidden_layers": 1,
            "num_attention_heads": 8,
            "num_experts": num_experts,
            "num_experts_per_tok": num_chosen,
            "norm_topk_prob": True,
        },
        "the experts' test",
    )


def silu_and_multiply(gate_up: torch.Tensor) -> torch.Tensor:
    """[num_tokens, 2 * width] -> [num_tokens, width]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up
