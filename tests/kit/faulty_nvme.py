"""Stages whose NVMe flips bits, or is slow: entry points for stage processes."""

from __future__ import annotations

import os
import time

from pipemax_worker.stage import main as stage_main
from pipemax_worker.stage.kv.nvme import NVMeKVFile, SlotBuffers

EVERY = 3
"""One slot in so many goes bad, in turn: recomputed KV must have a chance to come back whole."""

SECONDS_PER_SLOT = 1.2
"""Of a slow disk."""


def main(config_bytes: bytes) -> None:
    """The real stage; after every third slot written a bit of the file is flipped."""
    num_written = 0
    write = NVMeKVFile.write

    def write_and_corrupt(self: NVMeKVFile, slot: int, buffers: SlotBuffers) -> list[int]:
        nonlocal num_written
        failed = write(self, slot, buffers)
        for index in range(len(buffers)):
            num_written += 1
            if num_written % EVERY == 1:
                _flip_bit(self, (slot + index) * self.slot_bytes + 100)
        return failed

    NVMeKVFile.write = write_and_corrupt  # type: ignore[method-assign]
    stage_main.main(config_bytes)


def _flip_bit(file: NVMeKVFile, offset: int) -> None:
    """As a disk would do it: the file's own descriptor and checksums know nothing of it."""
    descriptor = os.open(file.path, os.O_RDWR)
    try:
        byte = os.pread(descriptor, 1, offset)[0]
        os.pwrite(descriptor, bytes([byte ^ 0x10]), offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def main_slow(config_bytes: bytes) -> None:
    """The real stage on a disk that takes a while for each slot."""
    write = NVMeKVFile.write

    def write_slowly(self: NVMeKVFile, slot: int, buffers: SlotBuffers) -> list[int]:
        time.sleep(SECONDS_PER_SLOT * len(buffers))
        return write(self, slot, buffers)

    NVMeKVFile.write = write_slowly  # type: ignore[method-assign]
    stage_main.main(config_bytes)
