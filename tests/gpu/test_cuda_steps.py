"""FlashInfer and CUDA graphs against transformers and against themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.models import build_oracle
from kit.paged_model import PagedModel
from kit.prompts import tokens
from pipemax_worker.stage.model.cuda.steps import CudaSteps
from transformers import AutoModelForCausalLM

CUDA = torch.device("cuda", 0)
BF16 = torch.bfloat16
SHAPE: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "max_position_embeddings": 2048,
    "initializer_range": 0.06,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-64": (
        "llama",
        {"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64},
    ),
    "qwen2-128": ("qwen2", {"num_attention_heads": 14, "num_key_value_heads": 2, "head_dim": 128}),
    "qwen3-128": ("qwen3", {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128}),
}


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name, changes = MODELS[request.param]
    path = tmp_path_factory.mktemp(request.param)
    build_oracle(name, **{**SHAPE, **changes}).to(BF16).save_pretrained(path)
    return path


def paged(folder: Path, layers: tuple[int, ...] = (4,), **more: Any) -> PagedModel:
    more = {"kv_dtype": BF16, "dtype": BF16, "block_tokens": 16, "num_slots": 900, **more}
    return PagedModel(folder, layers, device=CUDA, **more)


def steps_of(model: PagedModel) -> list[CudaSteps]:
    found = [stage._cuda for stage in model.stages if stage._cuda is not None]
    assert len(found) == len(model.stages), "FlashInfer is not used; see the log"
    return found


PROMPTS = {n: tokens(length, n) for n, length in enumerate((700, 30, 1, 257, 90, 512))}
NUM_DECODED = 24


def run(model: PagedModel) -> torch.Tensor:
    """Logits [requests, 1 + NUM_DECODED, vocab] while tokens are fed that no model chose; a prompt
    joins in the middle."""
    late = len(PROMPTS) - 1
    logits = {n: [row] for n, row in enumerate(model.forward(
        {n: prompt for n, prompt in PROMPTS.items() if n != late}).clone())}  # fmt: skip
    for step in range(NUM_DECODED + 3):
        chunks = {n: [7 * n + step] for n, rows in logits.items() if len(rows) <= NUM_DECODED}
        if step == 2:
            chunks[late] = PROMPTS[late]
        for n, row in zip(chunks, model.forward(chunks).clone(), strict=True):
            if n == late and step == 2:
                logits[n] = [row]
            else:
                logits[n].append(row)
    return torch.stack([torch.stack(logits[n][: 1 + NUM_DECODED]) for n in range(len(PROMPTS))])


@torch.inference_mode()
def oracle(folder: Path, dtype: torch.dtype) -> torch.Tensor:
    """The same logits by transformers, each request whole and by itself."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(CUDA).eval()
    late, rows = len(PROMPTS) - 1, []
    for n, prompt in PROMPTS.items():
        first = 3 if n == late else 0
        fed = [7 * n + step for step in range(first, first + NUM_DECODED)]
        logits = model(torch.tensor([[*prompt, *fed]], device=CUDA)).logits[0]
        rows.append(logits[len(prompt) - 1 :].float())
    return torch.stack(rows)


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    difference = torch.linalg.vector_norm(found - expected, dim=-1)
    return float((difference / torch.linalg.vector_norm(expected, dim=-1)).mean())


@pytest.mark.parametrize(
    ("layers", "left"), [((4,), ()), ((1, 3), ()), ((2, 1, 1), (True, True, False))]
)
def test_no_less_exact_than_transformers(
    folder: Path, layers: tuple[int, ...], left: tuple[bool, ...]
) -> None:
    """Where stages leave the MLP of their last layer to the next one too."""
    expected = oracle(folder, torch.float32)
    model = paged(folder, layers, mlp_left_by_stage=left)
    steps_of(model)
    assert error(run(model), expected) <= 1.2 * error(oracle(folder, BF16), expected)


def test_one_launch_for_norm_rotation_and_append(folder: Path) -> None:
    """As exact as FlashInfer's separate ones."""
    expected = oracle(folder, torch.float32)
    fused, separate = paged(folder), paged(folder)
    for steps in steps_of(fused):
        assert steps._library.rotate_and_append is not None
    for steps in steps_of(separate):
        steps._library = replace(steps._library, rotate_and_append=None)
    assert error(run(fused), expected) <= 1.05 * error(run(separate), expected)


def test_products_were_measured(folder: Path) -> None:
    (steps,) = steps_of(paged(folder))
    assert steps.gemm_table is not None
    assert steps.gemm_table.microseconds.keys() == {"qkv", "output", "gate_up", "down"}
    assert all(microseconds > 0 for microseconds in steps.gemm_table.step_microseconds)


def test_fp8_kv(folder: Path) -> None:
    """No less exact than PyTorch's kernels on the same KV type."""
    expected = oracle(folder, torch.float32)
    model, reference = (paged(folder, kv_dtype=torch.float8_e4m3fn) for _ in range(2))
    steps_of(model)
    for stage in reference.stages:
        stage._cuda = None
    assert error(run(model), expected) <= 1.2 * error(run(reference), expected)


def test_replayed_steps_are_those_launched(folder: Path) -> None:
    """Bit for bit, logits and KV."""
    cut = {"layers": (2, 1, 1), "mlp_left_by_stage": (True, False, False)}
    captured, launched = paged(folder, **cut), paged(folder, **cut)
    for steps in steps_of(launched):
        steps._uses_graphs = False
    assert torch.equal(run(captured), run(launched))
    assert steps_of(captured)[0]._graphs.num_captured >= 1
    for one, other in zip(captured.kv, launched.kv, strict=True):
        assert torch.equal(one[:-1], other[:-1])


def test_graphs_do_not_pile_up_memory(folder: Path) -> None:
    """After some, further ones take next to none of PyTorch's."""
    model = paged(folder)
    (steps,) = steps_of(model)
    steps.gemm_table = None  # it would leave fewer shapes
    model.forward({n: tokens(20, n) for n in range(40)})
    used = []
    for num_rows in range(1, 41):
        for _ in range(2):
            model.forward({n: [n] for n in range(num_rows)})
        used.append(torch.cuda.memory_allocated())
    assert steps._graphs.num_captured >= 5
    assert used[-1] - used[15] < 4 << 20


def test_a_step_waits_for_the_host_only_at_its_end(folder: Path) -> None:
    """Launching is over long before a long step is."""
    model = paged(folder)
    batch = model.batch({0: tokens(2000, 0)})
    ids = torch.tensor(tokens(2000, 0))
    model.stages[0].forward(ids, batch, model.kv[0])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.stages[0].forward(ids, batch, model.kv[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")
