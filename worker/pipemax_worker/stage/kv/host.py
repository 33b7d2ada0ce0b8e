"""The host tier: every slot that is not on the device passes through it."""

from __future__ import annotations

import torch

from pipemax_worker.contract.geometry import KVGeometry
from pipemax_worker.errors import KVTierError
from pipemax_worker.stage.kv.memory import allocate_rows

PIN_CHUNK_BYTES = 4 << 30
"""Registering holds a lock of the CUDA driver, and one registration of 512 GiB fails: so chunks."""


class HostKVCache:
    """One allocation of this stage's host slots, touched at start and pinned for a CUDA device.

    rows            ``[num_slots, slot_bytes]`` uint8, page-aligned.
    chunk_slots     no single copy may cross a multiple of it: pinned regions end there.

    Raises KVTierError when the memory cannot be had or pinned.
    """

    def __init__(self, geometry: KVGeometry, stage: int, *, pinned: bool) -> None:
        slot_bytes = geometry.slot_bytes(stage)
        self.rows = allocate_rows(geometry.num_host_slots, slot_bytes, "host tier")
        self.chunk_slots = max(1, PIN_CHUNK_BYTES // slot_bytes)
        self._pinned: list[torch.Tensor] = []
        if pinned:
            self._pin()

    @property
    def num_slots(self) -> int:
        return self.rows.shape[0]

    def _pin(self) -> None:
        runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        for first in range(0, self.num_slots, self.chunk_slots):
            chunk = self.rows[first : first + self.chunk_slots]
            status = runtime.cudaHostRegister(chunk.data_ptr(), chunk.numel(), 0)
            if int(status) != 0:
                raise KVTierError(
                    f"host tier: pinning {chunk.numel()} of {self.rows.numel()} bytes failed with "
                    f"CUDA error {int(status)}; lower kvCache.host or raise the limit of locked "
                    "memory"
                )
            self._pinned.append(chunk)

    def close(self) -> None:
        """Undo the pinning. Copies must have ended."""
        while self._pinned:
            runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
            runtime.cudaHostUnregister(self._pinned.pop().data_ptr())
