"""SiLU of the gate times the up projection. A Triton kernel.

FlashInfer's works on a row with one thread block, so that a decode step leaves most of the GPU
idle: 7.5 us for 160 rows of 18,944 on an H200. This one cuts rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

COLUMNS_PER_PROGRAM = 1024
NUM_WARPS = 4


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _silu_and_multiply(  # type: ignore[no-untyped-def]
    out, gate_up, width: tl.constexpr, num_columns: tl.constexpr
):
    """One program a row and ``num_columns`` of its columns."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * num_columns + tl.arange(0, num_columns)
    is_there = columns < width
    source = gate_up + row * (2 * width) + columns
    gate = tl.load(source, mask=is_there, other=0.0).to(tl.float32)
    up = tl.load(source + width, mask=is_there, other=0.0).to(tl.float32)
    activated = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * width + columns, activated.to(out.dtype.element_ty), mask=is_there)


def silu_and_multiply(out: torch.Tensor, gate_up: torch.Tensor, _: bool = True) -> None:
    """``gate_up`` [num_tokens, 2 width] -> ``out`` [num_tokens, width]. Arguments as FlashInfer's,
    whose last one concerns its launch."""
    width = out.shape[1]
    grid = (out.shape[0], triton.cdiv(width, COLUMNS_PER_PROGRAM))
    _silu_and_multiply[grid](out, gate_up, width, COLUMNS_PER_PROGRAM, num_warps=NUM_WARPS)
