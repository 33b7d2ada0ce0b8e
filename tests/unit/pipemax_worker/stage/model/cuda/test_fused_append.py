"""The Triton kernel on the CPU, and where there is no Triton."""

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
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("as PyTorch") == 2 * len(interpreted_kernels.SHAPES)


def test_fp8_has_a_largest_value() -> None:
    assert _largest(torch.float8_e4m3fn) == 448.0
    assert _largest(torch.bfloat16) == 0.0


def test_without_triton(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "pipemax_worker.stage.model.cuda.fused_append"
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, module, raising=False)
    plain = library.FlashInfer(*[print] * 5)
    assert library.with_fused_append(plain) is plain
    assert "no fused KV append (slower)" in caplog.text


def test_with_triton() -> None:
    plain = library.FlashInfer(*[print] * 5)
    assert library.with_fused_append(plain).rotate_and_append is not None
