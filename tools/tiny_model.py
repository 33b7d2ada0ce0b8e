"""The tiny model as a bare Llama in torch, with the parameter names of Hugging Face.

Training steps of such a small model are all overhead; this is what is left when nothing but the
arithmetic is done. That transformers computes the same from the saved folder is checked at export.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tiny_tokenizer
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class TinyConfig:
    num_layers: int = 8
    hidden_size: int = 128
    intermediate_size: int = 384
    num_heads: int = 4
    num_kv_heads: int = 2
    vocab_size: int = len(tiny_tokenizer.VOCABULARY)
    max_tokens: int = 1024
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


class Attention(nn.Module):
    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        kv_size = config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.simulates_fp8_kv = False

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        queries = self._heads(self.q_proj(hidden))  # [rows, heads, tokens, head_dim]
        keys = self._heads(self.k_proj(hidden))
        values = self._heads(self.v_proj(hidden))
        queries, keys = rotate(queries, cos, sin), rotate(keys, cos, sin)
        if self.simulates_fp8_kv:
            keys = keys.to(torch.float8_e4m3fn).to(keys.dtype)
            values = values.to(torch.float8_e4m3fn).to(values.dtype)
        groups = queries.shape[1] // keys.shape[1]
        mixed = functional.scaled_dot_product_attention(
            queries,
            keys.repeat_interleave(groups, dim=1),
            values.repeat_interleave(groups, dim=1),
            is_causal=True,
        )
        output: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return output

    def _heads(self, projected: Tensor) -> Tensor:
        num_rows, num_tokens, _ = projected.shape
        return projected.view(num_rows, num_tokens, -1, self.head_dim).transpose(1, 2)


class Mlp(nn.Module):
    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        gated = functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden)
        output: Tensor = self.down_proj(gated)
        return output


class Layer(nn.Module):
    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = Mlp(config)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), cos, sin)
        output: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return output


class Decoder(nn.Module):
    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)

    def each_layer(self) -> Iterator[Layer]:
        return (layer for layer in self.layers if isinstance(layer, Layer))


class TinyModel(nn.Module):
    """Token ids ``[rows, tokens]`` to logits ``[rows, tokens, vocabulary]``; tied embeddings."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        exponents = torch.arange(0, config.head_dim, 2) / config.head_dim
        angles = torch.arange(config.max_tokens)[:, None] * config.rope_theta ** -exponents[None]
        self.register_buffer("cos", angles.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin", angles.sin().repeat(1, 2), persistent=False)
        self.apply(_initialise)
        for layer in self.model.each_layer():
            for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
                nn.init.normal_(projection.weight, std=0.02 / (2 * config.num_layers) ** 0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        hidden = self.model.embed_tokens(tokens)
        cos, sin = self.cos[:length].to(hidden.dtype), self.sin[:length].to(hidden.dtype)
        for layer in self.model.layers:
            hidden = layer(hidden, cos, sin)
        return functional.linear(self.model.norm(hidden), self.model.embed_tokens.weight)

    def simulate_fp8_kv(self, on: bool) -> None:
        """Round keys and values as an FP8 cache (e4m3, no scales) would. For evaluation."""
        for layer in self.model.each_layer():
            layer.self_attn.simulates_fp8_kv = on


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat([-second, first], dim=-1) * sin


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)


def save_model(model: TinyModel, folder: Path) -> None:
    """Write the Hugging Face folder: bfloat16 weights, configs, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: parameter.detach().to("cpu", torch.bfloat16).contiguous()
        for name, parameter in model.named_parameters()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", config_json(model.config))
    token_ids = {"eos_token_id": tiny_tokenizer.END_ID, "pad_token_id": tiny_tokenizer.PAD_ID}
    _write_json(folder / "generation_config.json", {"do_sample": False, **token_ids})
    tiny_tokenizer.save_tokenizer(folder, model.config.max_tokens)


def config_json(config: TinyConfig) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "max_position_embeddings": config.max_tokens,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tiny_tokenizer.END_ID,
        "pad_token_id": tiny_tokenizer.PAD_ID,
    }


def _write_json(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
