"""The text of ``kit.fake_stage``'s model, in plain Python: what a pipeline must generate."""

from __future__ import annotations

from collections.abc import Sequence

from pipemax_worker.contract.model_config import ModelConfig, parse_model_config

PRIME = 251


def fake_model_config(num_layers: int = 4) -> ModelConfig:
    return parse_model_config(
        {
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": PRIME,
            "hidden_size": 8,
            "intermediate_size": 4096,
            "num_hidden_layers": num_layers,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
        },
        "the fake model",
    )


def expected_tokens(prompt: Sequence[int], num_tokens: int, num_stages: int) -> list[int]:
    """What the fake model generates greedily after ``prompt``."""
    tokens = list(prompt)
    for _ in range(num_tokens):
        values = list(tokens)
        for _ in range(num_stages):
            checksum, leaving = 0, []
            for position, value in enumerate(values):
                checksum = (checksum + (position + 1) * value) % PRIME
                leaving.append((value + checksum) % PRIME)
            values = leaving
        tokens.append(values[-1])
    return tokens[len(prompt) :]
