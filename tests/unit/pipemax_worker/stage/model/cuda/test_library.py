"""Where FlashInfer cannot serve, one log line says so and PyTorch's kernels are used."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from kit.flashinfer_emulator import emulated_flashinfer
from kit.models import save_model
from kit.paged_model import CPU
from pipemax_worker.contract.model_config import load_model_config
from pipemax_worker.stage.model.cuda import create
from pipemax_worker.stage.model.cuda.library import FlashInfer, load_flashinfer
from pipemax_worker.stage.model.rope import RotaryEmbedding

CUDA = torch.device("cuda", 0)
BF16 = torch.bfloat16


@pytest.mark.parametrize(
    ("dtype", "kv_dtype", "head_dim"),
    [(torch.float32, torch.float32, 128), (BF16, torch.float32, 128), (BF16, BF16, 32)],
)
def test_what_it_has_no_kernels_for(
    dtype: torch.dtype, kv_dtype: torch.dtype, head_dim: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert load_flashinfer(dtype, kv_dtype, head_dim) is None
    assert "FlashInfer has no kernels for heads of" in caplog.text


def test_not_installed(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flashinfer.jit", None)
    assert load_flashinfer(BF16, BF16, 128) is None
    assert "no FlashInfer kernels, PyTorch's are used (slower)" in caplog.text


def created(folder: Path, device: torch.device) -> object:
    config = load_model_config(folder)
    rope = RotaryEmbedding(config, CPU, torch.float32)
    return create.create_cuda_steps(
        config, rope, device, BF16, BF16, is_first=True, is_last=True, max_sampled=8
    )


def test_cpus_do_not_ask_for_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert created(save_model(tmp_path, "llama"), CPU) is None
    assert not caplog.text


def test_sliding_windows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert created(save_model(tmp_path, "mistral"), CUDA) is None
    assert "sliding windows have no fast kernels yet" in caplog.text


def test_kernels_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(create, "load_flashinfer", lambda *_: None)
    assert created(save_model(tmp_path, "llama"), CUDA) is None


@pytest.mark.parametrize(
    ("results", "is_fused"), [([True], True), ([False, True], False), ([False, False], None)]
)
def test_kernels_that_fail_their_trial_are_left_out(
    results: list[bool],
    is_fused: bool | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Ours first, then FlashInfer's."""

    def steps(config: object, library: FlashInfer, *_: object, **__: object) -> FlashInfer:
        return library

    plain = emulated_flashinfer()
    monkeypatch.setattr(create, "load_flashinfer", lambda *_: plain)
    monkeypatch.setattr(create, "CudaSteps", steps)
    monkeypatch.setattr(create, "passes_trial", lambda *_: results.pop(0))
    made = created(save_model(tmp_path, "llama"), CUDA)
    assert results == []
    if is_fused is None:
        assert made is None
        assert "cannot be trusted here" in caplog.text
    else:
        assert isinstance(made, FlashInfer)
        assert (made.rotate_and_append is not None) == is_fused
