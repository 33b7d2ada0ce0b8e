"""The router's choice, the spellings of experts' weights, and the mixture itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.models import build_oracle
from kit.paged_model import CPU
from pipemax_worker.contract.model_config import ModelConfig, load_model_config
from pipemax_worker.errors import InvariantError, ModelNotFoundError, UnsupportedModelError
from pipemax_worker.stage.model.checkpoint import Checkpoint
from pipemax_worker.stage.model.experts import Experts
from pipemax_worker.stage.model.random_weights import RandomWeights
from pipemax_worker.stage.model.torch_experts import mix_experts
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

FolderOf = Callable[[str], Path]
NAMES = ("mixtral", "qwen3-moe", "qwen3-moe-raw")
LAYER = 3  # has experts in each of them
DTYPES = (torch.float32, torch.bfloat16)


def block_of(oracle: PreTrainedModel, layer: int = LAYER) -> torch.nn.Module:
    block = oracle.model.layers[layer].mlp
    assert isinstance(block, torch.nn.Module)
    return block


def read(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[ModelConfig, Experts]:
    config = load_model_config(folder)
    return config, Experts(config, Checkpoint(folder, CPU, dtype), f"model.layers.{LAYER}.")


def silu_and_multiply(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def hidden_states(config: ModelConfig, num_tokens: int = 33) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(num_tokens, config.hidden_size, generator=generator)


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_choice_equals_transformers(name: str, model_folder: FolderOf) -> None:
    config, experts = read(model_folder(name))
    x = hidden_states(config)
    _, expected, expected_experts = block_of(build_oracle(name)).gate(x)
    weights, chosen = experts.choose(x)
    assert torch.equal(chosen, expected_experts)
    torch.testing.assert_close(weights, expected)
    is_normed = config.experts is not None and config.experts.norm_topk_prob
    assert bool(torch.isclose(weights.sum(-1), torch.ones(len(x))).all()) == is_normed


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@torch.inference_mode()
def test_mixture_equals_transformers(name: str, dtype: torch.dtype, model_folder: FolderOf) -> None:
    """In bfloat16 no less exact than transformers itself, both against float32."""
    config, experts = read(model_folder(name), dtype)
    x, residual = hidden_states(config, 66).chunk(2)
    oracle = build_oracle(name)
    expected = residual + block_of(oracle)(x[None])[0]
    found = mix_experts(x.to(dtype), experts, residual.to(dtype), silu_and_multiply)
    assert found.dtype == dtype
    if dtype == torch.float32:
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        return
    rounded = residual.to(dtype) + block_of(oracle.to(dtype))(x.to(dtype)[None])[0]
    errors = [(each.float() - expected).norm() for each in (found, rounded)]
    assert errors[0] <= 1.2 * errors[1]


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_fused_and_single_tensors_are_the_same_model(
    name: str, model_folder: FolderOf, tmp_path: Path
) -> None:
    """As transformers 5 keeps them in memory, and as checkpoints are published."""
    build_oracle(name).save_pretrained(tmp_path, save_original_format=False)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert f"model.layers.{LAYER}.mlp.experts.gate_up_proj" in names
    config, fused = read(tmp_path)
    _, single = read(model_folder(name))
    x = hidden_states(config)
    mixed = [
        mix_experts(x, each, torch.zeros_like(x), silu_and_multiply) for each in (fused, single)
    ]
    assert torch.equal(*mixed)
    assert fused.weight_bytes == single.weight_bytes


@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "single"])
def test_stacked_where_nothing_is_packed(is_fused: bool, tmp_path: Path) -> None:
    """Kernels for all experts read one tensor; each expert's matrix lies in it."""
    build_oracle("mixtral").save_pretrained(tmp_path, save_original_format=not is_fused)
    config, experts = read(tmp_path, torch.bfloat16)
    assert config.experts is not None
    count, width = config.experts.num_experts, config.experts.intermediate_size
    assert experts.gate_up.stacked.shape == (count, 2 * width, config.hidden_size)
    assert experts.down.stacked.shape == (count, config.hidden_size, width)
    x = hidden_states(config).to(torch.bfloat16)
    expected = torch.nn.functional.linear(x, experts.gate_up.stacked[2])
    assert torch.equal(experts.gate_up[2](x), expected)
    experts.gate_up.stacked[2].zero_()
    assert not experts.gate_up[2](x).any()


def test_packed_matrices_are_not_stacked(model_folder: FolderOf) -> None:
    _, experts = read(model_folder("mixtral"))
    with pytest.raises(InvariantError, match="packed one by one"):
        _ = experts.gate_up.stacked


def test_random_experts_do_not_depend_on_packing(model_folder: FolderOf) -> None:
    config = load_model_config(model_folder("mixtral"))
    by_dtype = [
        Experts(config, RandomWeights(0, CPU, dtype), "model.layers.0.") for dtype in DTYPES
    ]
    x = hidden_states(config)
    packed = by_dtype[0].down[1](silu_and_multiply(by_dtype[0].gate_up[1](x)))
    assert 0.1 < packed.std() < 10
    assert len({float(by_dtype[0].gate_up[n](x).sum()) for n in range(5)}) == 5


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"block_sparse_moe.experts.4.w2.weight": None},
            ModelNotFoundError,
            r"tensor model\.layers\.3\.block_sparse_moe\.experts\.4\.w2\.weight is missing",
        ),
        (
            {"block_sparse_moe.experts.1.w3.weight": torch.zeros(7, 32)},
            UnsupportedModelError,
            r"has shape \[7, 32\], config\.json implies \[48, 32\]",
        ),
        (
            {"block_sparse_moe.gate.weight": torch.zeros(4, 32)},
            UnsupportedModelError,
            r"has shape \[4, 32\], config\.json implies \[5, 32\]",
        ),
    ],
    ids=["missing", "narrow", "fewer"],
)
def test_wrong_weights_are_named(
    changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    build_oracle("mixtral").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in changes.items():
        full_name = f"model.layers.{LAYER}.{name}"
        del tensors[full_name]
        if tensor is not None:
            tensors[full_name] = tensor
    save_file(tensors, path)
    with pytest.raises(error, match=message):
        read(tmp_path)


def test_a_model_without_experts(model_folder: FolderOf) -> None:
    config = load_model_config(model_folder("llama"))
    with pytest.raises(InvariantError, match="LlamaForCausalLM has no experts"):
        Experts(config, RandomWeights(0, CPU, torch.float32), "model.layers.0.")
