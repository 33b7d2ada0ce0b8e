"""Whether a stage can run its steps with FlashInfer, and what runs them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial

import torch

from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.stage.model.cuda.gemm_meter import ensure_table
from pipemax_worker.stage.model.cuda.library import load_flashinfer, with_triton
from pipemax_worker.stage.model.cuda.steps import CudaSteps
from pipemax_worker.stage.model.cuda.trial import passes_trial
from pipemax_worker.stage.model.layer import WITH_RESIDUAL
from pipemax_worker.stage.model.linear import Linear
from pipemax_worker.stage.model.rope import RotaryEmbedding

LOGGER = logging.getLogger(__name__)


def create_cuda_steps(
    config: ModelConfig,
    rope: RotaryEmbedding,
    device: torch.device,
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
    *,
    is_first: bool,
    is_last: bool,
    max_sampled: int,
) -> CudaSteps | None:
    """None where PyTorch's kernels are to be used: on CPUs, and, with one log line, where
    FlashInfer cannot be had, does not fit the model, or fails its trial run."""
    if device.type != "cuda":
        return None
    if any(window is not None for window in config.sliding_windows):
        LOGGER.warning("sliding windows have no fast kernels yet, PyTorch's are used (slower)")
        return None
    library = load_flashinfer(dtype, kv_dtype, config.head_dim)
    if library is None:
        return None
    for candidate in (with_triton(library), library):
        if config.experts is not None and candidate.mix_experts is None:
            continue
        steps = CudaSteps(
            config,
            candidate,
            rope,
            device,
            dtype,
            is_first=is_first,
            is_last=is_last,
            max_sampled=max_sampled,
        )
        if passes_trial(steps, config, device, dtype, kv_dtype):
            return steps
    LOGGER.warning(
        "FlashInfer's kernels cannot be trusted here, PyTorch's are used (slower); this version "
        "was made for FlashInfer 0.6"
    )
    return None


def choose_libraries(
    steps: CudaSteps, matrices: Sequence[Mapping[str, Linear]], device: torch.device
) -> None:
    """Measure the layers' products, by kind, and let steps and products go by it."""
    kinds = dict.fromkeys(kind for layer in matrices for kind in layer)
    products = {kind: [layer[kind] for layer in matrices if kind in layer] for kind in kinds}
    table = ensure_table(products, WITH_RESIDUAL, device)
    if table is None:
        return
    for kind, linears in products.items():
        for linear in linears:
            linear.choose_library_by(partial(table.library_for, kind))
    steps.gemm_table = table
