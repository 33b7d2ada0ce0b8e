"""Rows of a table in pinned host memory, by a kernel that reads them there. A Triton kernel.

Which rows a step wants is known on the device alone: tokens that were just sampled have not been on
the host. So no copy can be ordered for them, and the kernel goes over the bus itself. A row of ten
kilobytes is ten programs' work, for many reads must be on their way at once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

COLUMNS_PER_PROGRAM = 512
NUM_WARPS = 2
"""Eight elements a thread: sixteen bytes of a bfloat16 row."""


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _gather_rows(  # type: ignore[no-untyped-def]
    out, table, row_numbers, width: tl.constexpr, num_columns: tl.constexpr
):
    """One program a row and ``num_columns`` of its columns."""
    place = tl.program_id(0).to(tl.int64)
    row = tl.load(row_numbers + place).to(tl.int64)
    columns = tl.program_id(1) * num_columns + tl.arange(0, num_columns)
    is_there = columns < width
    elements = tl.load(table + row * width + columns, mask=is_there)
    tl.store(out + place * width + columns, elements, mask=is_there)


def gather_rows(table: torch.Tensor, row_numbers: torch.Tensor) -> torch.Tensor:
    """``table`` [rows, width] pinned, ``row_numbers`` [num_tokens] int32 or int64 on the GPU ->
    [num_tokens, width] there. Every number must be that of a row."""
    num_tokens, width = len(row_numbers), table.shape[1]
    out = torch.empty(num_tokens, width, dtype=table.dtype, device=row_numbers.device)
    grid = (num_tokens, triton.cdiv(width, COLUMNS_PER_PROGRAM))
    if num_tokens > 0:
        _gather_rows[grid](out, table, row_numbers, width, COLUMNS_PER_PROGRAM, num_warps=NUM_WARPS)
    return out
