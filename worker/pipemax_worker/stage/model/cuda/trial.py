"""A trial run of FlashInfer's kernels against PyTorch's, before any job depends on them."""

from __future__ import annotations

import logging

import msgspec
import numpy as np
import torch

from pipemax_worker.contract.messages import ScheduledRequest
from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.contract.transfers import pack_int32
from pipemax_worker.stage.batch import Batch, build_batch
from pipemax_worker.stage.model.cuda.steps import CudaSteps
from pipemax_worker.stage.model.experts import Experts
from pipemax_worker.stage.model.kernels import AttentionShape, Kernels, QKNorm
from pipemax_worker.stage.model.random_weights import RandomWeights
from pipemax_worker.stage.model.rope import RotaryEmbedding
from pipemax_worker.stage.model.torch_kernels import TorchKernels

LOGGER = logging.getLogger(__name__)

MAX_ERROR = 0.02
"""Of the norm. Two bfloat16 computations of this differ by 0.004; wrong ones by 1."""

MAX_FP8_ERROR = 0.06
"""With FP8 KV, where a key that is rounded the other way differs by an eighth: up to 0.033."""

TRIAL_EXPERT_WIDTH = 64
BLOCK_TOKENS = 16
REQUESTS = ((699, 1), (0, 1), (256, 1), (0, 70), (250, 12), (31, 1))
"""Computed and new tokens: contexts of one chunk and of several, and a last row that decodes."""


def passes_trial(
    steps: CudaSteps,
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
) -> bool:
    """Whether one layer's attention and activation come out right; False with one log line."""
    try:
        error = _largest_error(steps, config, device, dtype, kv_dtype)
    except Exception as failure:  # no compiler for Triton's kernel, no FP8 on this GPU
        LOGGER.warning("a trial of the GPU's kernels failed: %r", failure)
        return False
    if error <= (MAX_FP8_ERROR if kv_dtype.itemsize == 1 else MAX_ERROR):
        return True
    LOGGER.warning("the GPU's kernels gave wrong results in a trial (error %.3f)", error)
    return False


@torch.inference_mode()
def _largest_error(
    steps: CudaSteps,
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
) -> float:
    shape = AttentionShape(
        config.num_attention_heads, config.num_key_value_heads, config.head_dim, None
    )
    batch = _trial_batch(config.max_position_embeddings, device)
    generator = torch.Generator(device).manual_seed(0)
    num_slots = len(batch.host.block_tables)
    kv = torch.randn(
        *(num_slots + 1, 2, 2, BLOCK_TOKENS, shape.num_kv_heads, shape.head_dim),
        generator=generator, device=device,
    ).to(kv_dtype)  # fmt: skip
    width = shape.num_query_columns + 2 * shape.num_kv_columns
    qk_norm = _trial_norm(config, device, dtype, generator)
    qkv = torch.randn(batch.num_tokens, width, generator=generator, device=device).to(dtype)
    cos, sin = RotaryEmbedding(config, device, dtype)(batch.indices.positions)
    expected = _attend(TorchKernels(batch, cos, sin), qkv, qk_norm, kv, shape)

    kernels = steps.kernels_for(batch)
    found = _attend(kernels, qkv, qk_norm, kv, shape)
    gate_up = torch.randn(
        batch.num_tokens, 2 * config.intermediate_size, generator=generator, device=device
    ).to(dtype)
    reference = TorchKernels(batch, cos, sin)
    activated = reference.silu_and_multiply(gate_up)
    return max(
        _error(found, expected),
        _error(kernels.silu_and_multiply(gate_up), activated),
        _error_of_experts(kernels, reference, batch.num_tokens, config, device, dtype),
    )


def _error_of_experts(
    kernels: Kernels,
    reference: Kernels,
    num_tokens: int,
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
) -> float:
    """Of narrow ones, which need little memory beside the model's own."""
    if config.experts is None:
        return 0.0
    width = min(config.experts.intermediate_size, TRIAL_EXPERT_WIDTH)
    narrow = msgspec.structs.replace(config.experts, intermediate_size=width)
    experts = Experts(
        msgspec.structs.replace(config, experts=narrow), RandomWeights(0, device, dtype), "trial."
    )
    generator = torch.Generator(device).manual_seed(1)
    shape = (num_tokens, config.hidden_size)
    x = torch.randn(shape, generator=generator, device=device).to(dtype)
    found, expected = (each.mix_experts(x, experts, torch.zeros_like(x))
                       for each in (kernels, reference))  # fmt: skip
    return _error(found, expected)


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    difference = torch.linalg.vector_norm(found.float() - expected.float(), dim=1)
    relative = difference / torch.linalg.vector_norm(expected.float(), dim=1)
    return float(relative.nan_to_num(nan=torch.inf).max())


def _trial_norm(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, generator: torch.Generator
) -> QKNorm | None:
    if not config.has_qk_norm:
        return None
    deviations = 0.1 * torch.randn(2, config.head_dim, generator=generator, device=device)
    weights = (1.0 + deviations).to(dtype)
    return QKNorm(weights[0], weights[1], config.rms_norm_eps)


def _attend(
    kernels: Kernels,
    qkv: torch.Tensor,
    qk_norm: QKNorm | None,
    kv: torch.Tensor,
    shape: AttentionShape,
) -> torch.Tensor:
    qkv, layer = qkv.clone(), kv.clone()[:, 1]
    kernels.rotate_and_append(qkv, qk_norm, layer, shape)
    return kernels.attention(qkv, layer, shape)


def _trial_batch(max_tokens: int, device: torch.device) -> Batch:
    requests = [(max(0, min(done, max_tokens - new)), new) for done, new in REQUESTS]
    num_blocks = [-(-(done + new) // BLOCK_TOKENS) for done, new in requests]
    slots = np.random.default_rng(0).permutation(sum(num_blocks)).tolist()
    scheduled = []
    for number, (done, new) in enumerate(requests):
        own, slots = slots[: num_blocks[number]], slots[num_blocks[number] :]
        scheduled.append(ScheduledRequest(number, done, new, None, pack_int32(own), True))
    return build_batch(scheduled, BLOCK_TOKENS, device)
