"""Which of CUDA's errors are the card's own, and which may be a kernel's bug."""

from __future__ import annotations

import pytest
import torch
from pipemax_worker.errors import GpuLostError, StageDiedError, error_from_reason
from pipemax_worker.stage.gpu_loss import is_gpu_loss
from pipemax_worker.stage.main import describe_failure


def accelerator_error(code: int, words: str) -> torch.AcceleratorError:
    error = torch.AcceleratorError(f"CUDA error: {words}")
    error.error_code = code
    return error


LOST = [
    accelerator_error(214, "uncorrectable ECC error encountered"),
    accelerator_error(220, "NVLink"),
    accelerator_error(226, "contained"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("NVML: GPU is lost"),
]
MAYBE_OURS = [
    accelerator_error(700, "an illegal memory access was encountered"),
    accelerator_error(719, "unspecified launch failure"),
    RuntimeError("CUDA error: out of memory"),
    ValueError("GPU is lost, says somebody else"),
]


@pytest.mark.parametrize("error", LOST, ids=str)
def test_the_cards_own_failures(error: Exception) -> None:
    assert is_gpu_loss(error)
    failure = describe_failure(3, error)
    rebuilt = error_from_reason(failure.reason, failure.message)
    assert isinstance(rebuilt, GpuLostError)
    assert str(error) in str(rebuilt)


@pytest.mark.parametrize("error", MAYBE_OURS, ids=str)
def test_what_a_line_may_have_provoked_is_a_dead_stage(error: Exception) -> None:
    assert not is_gpu_loss(error)
    failure = describe_failure(3, error)
    assert isinstance(error_from_reason(failure.reason, failure.message), StageDiedError)
