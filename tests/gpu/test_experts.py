"""Mixtures of experts on a GPU: fused kernels against PyTorch's, and whole models against
transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kit.expert_shapes import experts_config, silu_and_multiply
from kit.models import build_oracle
from kit.paged_model import PagedModel
from kit.prompts import tokens
from pipemax_worker.stage.model.cuda import fused_experts
from pipemax_worker.stage.model.experts import Experts
from pipemax_worker.stage.model.random_weights import RandomWeights
from pipemax_worker.stage.model.torch_experts import mix_experts
from transformers import AutoModelForCausalLM

CUDA = torch.device("cuda", 0)
BF16 = torch.bfloat16
SHAPE: dict[str, Any] = {
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.06,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": (
        "mixtral",
        {"intermediate_size": 768, "num_local_experts": 8, "sliding_window": None},
    ),
    "qwen3-moe": (
        "qwen3-moe",
        {
            "head_dim": 128,
            "intermediate_size": 1024,
            "moe_intermediate_size": 192,
            "num_experts": 60,
            "num_experts_per_tok": 6,
        },
    ),
}
NUM_DECODED = 12


def random_rows(num_tokens: int, hidden: int) -> torch.Tensor:
    generator = torch.Generator(CUDA).manual_seed(num_tokens)
    return torch.randn(num_tokens, hidden, generator=generator, device=CUDA).to(BF16)


@pytest.mark.parametrize("num_tokens", [1, 7, 32, 129, 700])
@pytest.mark.parametrize(
    ("num_experts", "num_chosen", "hidden", "width"),
    [(8, 2, 4096, 1792), (128, 8, 2048, 768), (60, 4, 1000, 88)],
)
@torch.inference_mode()
def test_fused_experts_are_those_of_pytorch(
    num_tokens: int, num_experts: int, num_chosen: int, hidden: int, width: int
) -> None:
    """Bit-equal to themselves, too."""
    config = experts_config(num_experts, num_chosen, hidden=hidden, width=width)
    experts = Experts(config, RandomWeights(0, CUDA, BF16), "layer.")
    x = random_rows(num_tokens, hidden)
    expected = mix_experts(x, experts, torch.zeros_like(x), silu_and_multiply).float()
    found = fused_experts.mix_experts(x, experts, torch.zeros_like(x))
    error = (found.float() - expected).norm(dim=1) / expected.norm(dim=1)
    assert error.max() < 0.01
    assert torch.equal(found, fused_experts.mix_experts(x, experts, torch.zeros_like(x)))


@torch.inference_mode()
def test_all_tokens_to_the_same_experts() -> None:
    experts = Experts(
        experts_config(8, 2, hidden=512, width=256), RandomWeights(0, CUDA, BF16), "layer."
    )
    x = random_rows(1, 512).expand(300, -1).contiguous()
    found = fused_experts.mix_experts(x, experts, torch.zeros_like(x))
    alone = fused_experts.mix_experts(x[:1], experts, torch.zeros_like(x[:1]))
    torch.testing.assert_close(found, alone.expand(300, -1), atol=0.02, rtol=0.02)


@torch.inference_mode()
def test_a_graph_follows_the_routers_choice() -> None:
    """Captured with one batch, replayed with others."""
    experts = Experts(
        experts_config(16, 3, hidden=512, width=256), RandomWeights(0, CUDA, BF16), "layer."
    )
    x, residual = torch.zeros(2, 40, 512, device=CUDA, dtype=BF16)
    fused_experts.mix_experts(x, experts, residual)  # loads the kernels
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mixed = fused_experts.mix_experts(x, experts, residual)
    for seed in range(4):
        x.copy_(random_rows(40 + seed, 512)[:40])
        residual.zero_()
        graph.replay()
        expected = fused_experts.mix_experts(x.clone(), experts, torch.zeros_like(x))
        assert torch.equal(mixed, expected)


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name, changes = MODELS[request.param]
    path = tmp_path_factory.mktemp(request.param)
    build_oracle(name, **{**SHAPE, **changes}).to(BF16).save_pretrained(path)
    return path


def paged(folder: Path, uses_graphs: bool = True) -> PagedModel:
    model = PagedModel(
        folder, (1, 3), device=CUDA, dtype=BF16, kv_dtype=BF16, block_tokens=16, num_slots=400
    )
    for stage in model.stages:
        assert stage._cuda is not None, "the fused kernels are not used; see the log"
        stage._cuda._uses_graphs = uses_graphs
    return model


PROMPTS = {n: tokens(length, n) for n, length in enumerate((500, 30, 1, 257, 90))}


def run(model: PagedModel) -> torch.Tensor:
    """Logits [requests, 1 + NUM_DECODED, vocab] while tokens are fed that no model chose."""
    logits = [model.forward(PROMPTS).clone()]
    for step in range(NUM_DECODED):
        logits.append(model.forward({n: [7 * n + step] for n in PROMPTS}).clone())
    return torch.stack(logits, dim=1)


@torch.inference_mode()
def oracle(folder: Path, dtype: torch.dtype) -> torch.Tensor:
    """The same logits by transformers, each request whole and by itself."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(CUDA).eval()
    rows = []
    for n, prompt in PROMPTS.items():
        fed = [7 * n + step for step in range(NUM_DECODED)]
        logits = model(torch.tensor([[*prompt, *fed]], device=CUDA)).logits[0]
        rows.append(logits[len(prompt) - 1 :].float())
    return torch.stack(rows)


def median_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Of the rows: one that went to another expert, for a choice as good, is far off."""
    difference = torch.linalg.vector_norm(found - expected, dim=-1)
    return float((difference / torch.linalg.vector_norm(expected, dim=-1)).median())


def test_no_less_exact_than_transformers(folder: Path) -> None:
    expected = oracle(folder, torch.float32)
    assert median_error(run(paged(folder)), expected) <= 1.2 * median_error(
        oracle(folder, BF16), expected
    )


def test_replayed_steps_are_those_launched(folder: Path) -> None:
    """Bit for bit."""
    captured, launched = paged(folder), paged(folder, uses_graphs=False)
    assert torch.equal(run(captured), run(launched))
    steps = captured.stages[1]._cuda
    assert steps is not None
    assert steps._graphs.num_captured >= 1


def test_every_rows_products_were_measured(folder: Path) -> None:
    """Experts are not among them; layers without are."""
    steps = paged(folder).stages[1]._cuda
    assert steps is not None
    assert steps.gemm_table is not None
    of_dense = {"gate_up", "down"} if "qwen3" in folder.name else set()
    assert steps.gemm_table.microseconds.keys() == {"qkv", "output"} | of_dense
