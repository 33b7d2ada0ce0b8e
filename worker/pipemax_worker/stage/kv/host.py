"""The host tier: every slot that is not on the device passes through it."""

from __future__ import annotations

import ctypes
import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from pipemax_worker.contract.geometry import KVGeometry
from pipemax_worker.errors import KVTierError
from pipemax_worker.stage.kv.memory import allocate_rows

LOGGER = logging.getLogger(__name__)

PIN_CHUNK_BYTES = 1 << 30
"""Registering holds a lock of the CUDA driver, and one registration of 512 GiB fails: so chunks."""

PIN_THREADS = 8
"""The kernel finds and clears pages on as many cores; one takes 1.3 s for a GiB."""

PROGRESS_SECONDS = 10.0


class HostKVCache:
    """One allocation of this stage's host slots, touched at start and pinned for a CUDA device.

    rows            ``[num_slots, slot_bytes]`` uint8, page-aligned.
    chunk_slots     no single copy may cross a multiple of it: pinned regions end there.

    Raises KVTierError when the memory cannot be had or pinned.
    """

    def __init__(self, geometry: KVGeometry, stage: int, *, pinned: bool) -> None:
        slot_bytes = geometry.slot_bytes(stage)
        self.chunk_slots = max(1, PIN_CHUNK_BYTES // slot_bytes)
        self._pinned: list[torch.Tensor] = []
        self.rows = allocate_rows(
            geometry.num_host_slots, slot_bytes, "host tier", touched=not pinned
        )
        if pinned:
            self._pin()

    @property
    def num_slots(self) -> int:
        return self.rows.shape[0]

    def _pin(self) -> None:
        """Touch and register all chunks, several at a time."""
        start = reported = time.monotonic()
        num_threads = max(1, min(PIN_THREADS, len(os.sched_getaffinity(0))))
        # A thread's first GPU is number 0: each stage would make a context there, of half a GiB.
        device = torch.cuda.current_device()
        with ThreadPoolExecutor(num_threads, "pin", torch.cuda.set_device, (device,)) as pool:
            for chunk in pool.map(_touch_and_register, self._chunks()):
                self._pinned.append(chunk)
                if time.monotonic() - reported > PROGRESS_SECONDS:
                    reported = time.monotonic()
                    pinned = sum(chunk.numel() for chunk in self._pinned)
                    LOGGER.warning(
                        "host tier: %d of %d GiB pinned after %.0f s",
                        pinned >> 30, self.rows.numel() >> 30, reported - start,
                    )  # fmt: skip

    def _chunks(self) -> Iterator[torch.Tensor]:
        for first in range(0, self.num_slots, self.chunk_slots):
            yield self.rows[first : first + self.chunk_slots]

    def close(self) -> None:
        """Undo the pinning. Copies must have ended."""
        while self._pinned:
            runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
            runtime.cudaHostUnregister(self._pinned.pop().data_ptr())


def _touch_and_register(chunk: torch.Tensor) -> torch.Tensor:
    """Both without Python's lock."""
    ctypes.memset(chunk.data_ptr(), 0, chunk.numel())
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    status = runtime.cudaHostRegister(chunk.data_ptr(), chunk.numel(), 0)
    if int(status) != 0:
        raise KVTierError(
            f"host tier: pinning {chunk.numel()} bytes failed with CUDA error {int(status)}; lower "
            "kvCache.host or raise the limit of locked memory"
        )
    return chunk
