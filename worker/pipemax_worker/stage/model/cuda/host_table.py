"""A table in pinned host memory of which a GPU reads single rows."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable

import torch

from pipemax_worker.errors import KVTierError

LOGGER = logging.getLogger(__name__)

GatherRows = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(table [rows, width], row numbers [num_tokens]) -> [num_tokens, width]: ``row_gather``'s."""

REGISTER_MAPPED = 2
"""CUDA's cudaHostRegisterMapped: kernels may read there."""


class HostTable:
    """Rows that were on the device, [rows, width], from now on in host memory.

    Pinned as they lie: PyTorch's own pinned memory comes in powers of two, which for a table of
    1.1 GB would be 2.1. Raises KVTierError if the memory cannot be pinned.
    """

    def __init__(self, table: torch.Tensor, gather_rows: GatherRows) -> None:
        self._gather_rows = gather_rows
        self._rows = table.to("cpu", copy=True).contiguous()
        if table.is_cuda:
            _pin(self._rows)
            # Before the rows are freed: until then the GPU may read there.
            weakref.finalize(self, _unpin, self._rows).atexit = False

    @property
    def num_bytes(self) -> int:
        return self._rows.nbytes

    def __call__(self, row_numbers: torch.Tensor) -> torch.Tensor:
        """``row_numbers`` [num_tokens] on the device -> [num_tokens, width] there."""
        return self._gather_rows(self._rows, row_numbers)

    @torch.inference_mode()
    def matches(self, table: torch.Tensor) -> bool:
        """Whether some rows come out as those of ``table``, from its beginning to its end: whoever
        has it still."""
        last = len(table) - 1
        numbers = torch.tensor([0, last // 2, last, 0], dtype=torch.int32, device=table.device)
        return torch.equal(self(numbers), table[numbers.long()])


def move_to_host(table: torch.Tensor) -> HostTable | None:
    """``table`` as one in host memory; None, with one log line, where that cannot be had or does
    not give the same rows."""
    try:
        from pipemax_worker.stage.model.cuda.row_gather import gather_rows

        moved = HostTable(table, gather_rows)
        if moved.matches(table):
            return moved
        fault = "its rows come out wrong"
    except Exception as error:  # no Triton or no compiler for it, no memory that can be pinned
        fault = repr(error)
    LOGGER.warning(
        "the embedding stays on the GPU, and %d MiB of what was meant for KV with it: it cannot be "
        "read in host memory (%s)", table.nbytes >> 20, fault,
    )  # fmt: skip
    return None


def _pin(rows: torch.Tensor) -> None:
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    status = runtime.cudaHostRegister(rows.data_ptr(), rows.nbytes, REGISTER_MAPPED)
    if int(status) != 0:
        raise KVTierError(
            f"the embedding's rows: pinning {rows.nbytes} bytes of host memory failed with CUDA "
            f"error {int(status)}; raise the limit of locked memory"
        )


def _unpin(rows: torch.Tensor) -> None:
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    runtime.cudaHostUnregister(rows.data_ptr())
