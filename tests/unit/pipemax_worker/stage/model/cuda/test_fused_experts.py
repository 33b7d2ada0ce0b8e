"""The fused experts' Triton kernels on the CPU, and who may do without them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from kit import compiled_experts, interpreted_experts
from kit.models import save_model
from pipemax_worker.contract.model_config import load_model_config
from pipemax_worker.stage.model.cuda import create, library
from pipemax_worker.stage.model.cuda.gemm_table import GemmTable
from pipemax_worker.stage.model.linear import Linear
from pipemax_worker.stage.model.rope import RotaryEmbedding

CUDA = torch.device("cuda", 0)


def run_program(program: ModuleType, *arguments: str, **variables: str) -> str:
    """Its output; a failure is the test's."""
    environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(program.__file__), *arguments],
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_interpreted_it_does_what_pytorch_does(tmp_path: Path) -> None:
    said = run_program(interpreted_experts, TRITON_INTERPRET="1", TRITON_CACHE_DIR=str(tmp_path))
    assert said.count(": as ") == 9


def test_it_compiles_for_consumer_cards(tmp_path: Path) -> None:
    """An RTX 4090's, without one."""
    said = run_program(compiled_experts, "89", TRITON_CACHE_DIR=str(tmp_path))
    assert said.count("compiled") == 6


@pytest.mark.parametrize(("name", "num_trials"), [("qwen3-moe", 0), ("qwen3", 1)])
def test_without_triton_experts_run_by_pytorch(
    name: str,
    num_trials: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """FlashInfer's kernels alone are not even tried."""
    tried: list[library.FlashInfer] = []
    without = library.FlashInfer(*[print] * 5)
    monkeypatch.setattr(create, "load_flashinfer", lambda *_: without)
    monkeypatch.setattr(create, "with_triton", lambda found: found)
    monkeypatch.setattr(create, "CudaSteps", lambda _, found, *a, **k: tried.append(found))
    monkeypatch.setattr(create, "passes_trial", lambda *_: False)
    config = load_model_config(save_model(tmp_path, name))
    dtypes = (torch.bfloat16, torch.bfloat16)
    steps = create.create_cuda_steps(
        config,
        RotaryEmbedding(config, torch.device("cpu"), torch.float32),
        CUDA,
        *dtypes,
        is_first=True,
        is_last=True,
        max_sampled=8,
    )
    assert steps is None
    assert len(tried) == 2 * num_trials
    assert "PyTorch's are used (slower)" in caplog.text


def test_layers_with_and_without_experts_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind of product has as many matrices as layers have it."""
    measured: dict[str, int] = {}

    def ensure_table(products: dict[str, list[Linear]], *_: object) -> GemmTable:
        measured.update({kind: len(linears) for kind, linears in products.items()})
        return GemmTable((8,), {})

    class Steps:
        gemm_table: GemmTable | None = None

    monkeypatch.setattr(create, "ensure_table", ensure_table)
    dense, sparse = (
        {kind: Linear(torch.ones(2, 2), None) for kind in kinds}
        for kinds in (("qkv", "output", "gate_up", "down"), ("qkv", "output"))
    )
    steps = Steps()
    create.choose_libraries(steps, [sparse, dense, sparse], CUDA)  # type: ignore[arg-type]
    assert measured == {"qkv": 3, "output": 3, "gate_up": 1, "down": 1}
    assert steps.gemm_table is not None
