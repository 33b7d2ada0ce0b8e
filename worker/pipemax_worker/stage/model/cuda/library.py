"""FlashInfer's kernels as plain functions, built for this GPU when they are first wanted.

The library's own wrappers plan on the host for 0.2 to 1.1 ms and go through PyTorch's dispatcher at
every call; its compiled modules are called here instead. What they expect is FlashInfer 0.6's: a
trial run against PyTorch decides whether they are used (``trial.py``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

LOGGER = logging.getLogger(__name__)

HEAD_DIMS = (64, 128, 256)
DTYPES = (torch.bfloat16, torch.float16)
KV_DTYPES = (*DTYPES, torch.float8_e4m3fn)

Function = Callable[..., Any]


@dataclass(frozen=True)
class FlashInfer:
    """Functions of FlashInfer's modules, for one compute type, KV type and head size.

    paged_attention   ``paged_run`` of the FA2 prefill module, which serves decoding rows too.
    rms_norm, rotate, append, silu_and_multiply   as named in the library.
    rotate_and_append   ``fused_append``'s, in place of norm, rotation and append; None: without.
    copy_words          ``word_copy``'s; None: the copy engine.
    mix_experts         ``fused_experts``'s; None: models with experts cannot run with these.
    """

    paged_attention: Function
    rms_norm: Function
    rotate: Function
    append: Function
    silu_and_multiply: Function
    rotate_and_append: Function | None = None
    copy_words: Function | None = None
    mix_experts: Function | None = None


def load_flashinfer(dtype: torch.dtype, kv_dtype: torch.dtype, head_dim: int) -> FlashInfer | None:
    """The kernels, or None, with one log line, where they cannot be had.

    The first call on a machine compiles them for half a minute to some minutes; they are kept in
    the user's cache folder (``FLASHINFER_WORKSPACE_BASE``).
    """
    if dtype not in DTYPES or kv_dtype not in KV_DTYPES or head_dim not in HEAD_DIMS:
        LOGGER.warning(
            "FlashInfer has no kernels for heads of %d, %s and KV of %s; PyTorch's are used "
            "(slower)", head_dim, dtype, kv_dtype,
        )  # fmt: skip
        return None
    try:
        return _load(dtype, kv_dtype, head_dim)
    except Exception as error:  # missing, no compiler, no such GPU: it says so itself
        LOGGER.warning("no FlashInfer kernels, PyTorch's are used (slower): %r", error)
        return None


def with_triton(library: FlashInfer) -> FlashInfer:
    """With our own kernels where they are faster; as it is where Triton cannot be had."""
    try:
        from pipemax_worker.stage.model.cuda.fused_activation import silu_and_multiply
        from pipemax_worker.stage.model.cuda.fused_append import rotate_and_append
        from pipemax_worker.stage.model.cuda.fused_experts import mix_experts
        from pipemax_worker.stage.model.cuda.word_copy import copy_words
    except ImportError as error:
        LOGGER.warning("no Triton kernels, FlashInfer's are used (slower): %s", error)
        return library
    return replace(
        library,
        rotate_and_append=rotate_and_append,
        silu_and_multiply=silu_and_multiply,
        copy_words=copy_words,
        mix_experts=mix_experts,
    )


def kernel_specs(dtype: torch.dtype, kv_dtype: torch.dtype, head_dim: int) -> dict[str, Any]:
    """What FlashInfer compiles for these types: its ``JitSpec`` objects by our names for them.

    Raises ImportError where the library is missing.
    """
    from flashinfer.jit import activation, norm, page, rope
    from flashinfer.jit.attention import gen_batch_prefill_module

    heads = (head_dim, head_dim)
    attention = gen_batch_prefill_module(
        "fa2", dtype, kv_dtype, dtype, torch.int32, *heads, 0, False, False, False
    )
    return {
        "attention": attention,
        "norm": norm.gen_norm_module(),
        "rope": rope.gen_rope_module(),
        "page": page.gen_page_module(),
        "activation": activation.gen_act_and_mul_module("silu"),
    }


def _load(dtype: torch.dtype, kv_dtype: torch.dtype, head_dim: int) -> FlashInfer:
    start = time.monotonic()
    specs = kernel_specs(dtype, kv_dtype, head_dim)
    missing = [name for name, spec in specs.items() if not spec.is_compiled]
    if missing:
        LOGGER.warning(
            "compiling FlashInfer's kernels for this GPU (%s): once, for a minute or two",
            ", ".join(missing),
        )
    modules = {name: spec.build_and_load() for name, spec in specs.items()}
    LOGGER.info("FlashInfer's kernels loaded in %.1f s", time.monotonic() - start)
    return FlashInfer(
        paged_attention=modules["attention"].paged_run,
        rms_norm=modules["norm"].rmsnorm,
        rotate=modules["rope"].apply_rope_pos_ids_cos_sin_cache,
        append=modules["page"].append_paged_kv_cache,
        silu_and_multiply=modules["activation"].silu_and_mul,
    )
