"""The Triton kernels on the CPU, and where there is no Triton."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kit import interpreted_kernels
from pipemax_worker.stage.model.cuda import library
from pipemax_worker.stage.model.cuda.fused_append import _largest
from pipemax_worker.stage.model.cuda.trial import _error, passes_trial


def test_interpreted_it_does_what_pytorch_does(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "TRITON_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, interpreted_kernels.__file__],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("as PyTorch") == 2 * len(interpreted_kernels.SHAPES) + 5


def test_fp8_has_a_largest_value() -> None:
    assert _largest(torch.float8_e4m3fn) == 448.0
    assert _largest(torch.bfloat16) == 0.0


def test_a_trial_that_finds_nan_fails() -> None:
    ones = torch.ones(2, 3)
    assert _error(ones, ones) == 0.0
    assert _error(torch.tensor([[1.0, 1.0, float("nan")]]), ones[:1]) == float("inf")


def test_without_triton(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in ("fused_append", "fused_activation", "fused_experts", "word_copy"):
        module = f"pipemax_worker.stage.model.cuda.{name}"
        monkeypatch.delitem(sys.modules, module, raising=False)
    plain = library.FlashInfer(*[print] * 5)
    assert library.with_triton(plain) is plain
    assert "no Triton kernels, FlashInfer's are used (slower)" in caplog.text


def test_with_triton() -> None:
    plain = library.FlashInfer(*[print] * 5)
    with_triton = library.with_triton(plain)
    assert with_triton.rotate_and_append is not None
    assert with_triton.copy_words is not None
    assert with_triton.silu_and_multiply is not plain.silu_and_multiply


def test_a_trial_that_raises_fails(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> float:
        raise FileNotFoundError("cc")

    monkeypatch.setattr("pipemax_worker.stage.model.cuda.trial._largest_error", fail)
    assert not passes_trial(*[None] * 5)  # type: ignore[arg-type]
    assert "a trial of the GPU's kernels failed: FileNotFoundError('cc')" in caplog.text
