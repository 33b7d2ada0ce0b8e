"""Page-aligned memory for the tiers that live in a stage's own address space."""

from __future__ import annotations

import mmap

import torch

from pipemax_worker.errors import KVTierError


def allocate_rows(
    num_rows: int, row_bytes: int, purpose: str, *, touched: bool = True
) -> torch.Tensor:
    """One zeroed allocation ``[num_rows, row_bytes]`` of uint8 that starts at a page boundary.

    Every page is touched, so that memory that is not there is missed now and not in the middle of a
    job; and no row holds bits that could read as NaN. Page alignment is what ``O_DIRECT`` asks of
    the buffers it reads and writes. ``purpose`` names the tier in a :class:`KVTierError`.
    ``touched=False`` leaves the touching to the caller.
    """
    num_bytes = num_rows * row_bytes
    if num_bytes == 0:
        return torch.empty(num_rows, row_bytes, dtype=torch.uint8)
    try:
        pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError, OverflowError) as error:
        raise KVTierError(
            f"{purpose}: {num_bytes} bytes of memory for {num_rows} slots cannot be had ({error}); "
            "give the tier less memory"
        ) from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    rows = torch.frombuffer(pages, dtype=torch.uint8)  # [num_bytes]; keeps ``pages`` alive
    if touched:
        rows.zero_()
    return rows.view(num_rows, row_bytes)


def row_buffers(rows: torch.Tensor, first: int, num_rows: int) -> list[memoryview]:
    """The bytes of ``num_rows`` rows from ``first`` on, one buffer a row, without a copy."""
    return [row.data for row in rows[first : first + num_rows].numpy()]
