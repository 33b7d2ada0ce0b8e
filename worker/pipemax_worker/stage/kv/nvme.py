"""The NVMe tier: one file of fixed slots for each stage.

A slot's checksum is kept in memory when it is written and compared when it is read, so a bit that
flips on the device is found before any forward can use it. The file never grows: its blocks are
allocated at start. Reads and writes go past the page cache (``O_DIRECT``) where the file system has
it; the host tier's rows are page-aligned for that, so no bounce buffer is needed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from pipemax_worker.contract.geometry import SLOT_ALIGNMENT_BYTES
from pipemax_worker.errors import KVTierError
from pipemax_worker.stage.kv.memory import allocate_rows, row_buffers
from pipemax_worker.stage.kv.nvme_index import index_path, read_index, write_index

SlotBuffers = Sequence[memoryview]
VectoredCall = Callable[[int, SlotBuffers, int], int]


class NVMeKVFile:
    """``num_slots`` slots of ``slot_bytes``, a multiple of 4,096, in the file ``path``.

    ``direct=False`` keeps to buffered I/O. One writer and one reader may work at the same time, on
    different slots (``KVMover`` orders those that meet). Raises KVTierError, with path and size,
    when the file cannot be made or the disk has no room for it; the file is gone then.

    ``adopt``: take up the file that an earlier run has parked there, with what is in its slots.
    Where it cannot be used, ``adoption_fault`` says why, and a fresh file takes its place.
    """

    def __init__(
        self,
        path: Path,
        num_slots: int,
        slot_bytes: int,
        *,
        direct: bool = True,
        adopt: bool = False,
    ) -> None:
        self.path = path
        self.num_slots = num_slots
        self.slot_bytes = slot_bytes
        self._checksums: list[int | None] = [None] * num_slots
        self.adoption_fault: str | None = None
        if not adopt or not self._adopt():
            self._allocate_file()
        self._fd, self.is_direct = self._open_direct() if direct else (self._open(0), False)

    def write(self, slot: int, buffers: SlotBuffers) -> list[int]:
        """Write ``buffers`` to the slots from ``slot`` on; the indices of those that failed."""
        checksums = [zlib.crc32(buffer) for buffer in buffers]
        failed = self._transfer(os.pwritev, slot, buffers)
        for index, checksum in enumerate(checksums):
            self._checksums[slot + index] = None if index in failed else checksum
        return failed

    def read(self, slot: int, buffers: SlotBuffers) -> list[int]:
        """Read the slots from ``slot`` on; the indices of those that failed or whose bytes are not
        those that were written."""
        failed = set(self._transfer(os.preadv, slot, buffers))
        failed |= {
            index
            for index, buffer in enumerate(buffers)
            if self._checksums[slot + index] != zlib.crc32(buffer)
        }
        return sorted(failed)

    def park(self) -> None:
        """See what was written onto the disk, with an index of it, for a later run to adopt. Call
        it when nothing writes any more, and keep the file then. Raises KVTierError."""
        try:
            os.fsync(self._fd)
            write_index(self.path, self.slot_bytes, self._checksums)
        except OSError as error:
            raise KVTierError(
                f"NVMe tier: {self.path} cannot be parked: {error.strerror}"
            ) from error

    def close(self, *, remove: bool = True) -> None:
        """Close the file, and remove it unless it is to be adopted by a later run. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if remove:
            self.path.unlink(missing_ok=True)
            index_path(self.path).unlink(missing_ok=True)

    def _adopt(self) -> bool:
        try:
            self._checksums = read_index(self.path, self.num_slots, self.slot_bytes)
        except KVTierError as error:
            self.adoption_fault = str(error)
            return False
        return True

    def _allocate_file(self) -> None:
        num_bytes = self.num_slots * self.slot_bytes
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                _allocate_blocks(fd, num_bytes)
            finally:
                os.close(fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            raise KVTierError(
                f"NVMe tier: {self.path} of {num_bytes} bytes cannot be allocated: "
                f"{error.strerror}; free the disk or lower kvCache.nvme.size"
            ) from error

    def _open(self, flags: int) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CLOEXEC | flags)

    def _open_direct(self) -> tuple[int, bool]:
        """Try ``O_DIRECT`` with a read: some file systems refuse the flag, others its first use."""
        try:
            fd = self._open(os.O_DIRECT)
        except (OSError, AttributeError):
            return self._open(0), False
        probe = allocate_rows(1, SLOT_ALIGNMENT_BYTES, "NVMe tier")
        try:
            os.preadv(fd, row_buffers(probe, 0, 1), 0)
        except OSError:
            os.close(fd)
            return self._open(0), False
        return fd, True

    def _transfer(self, vectored_call: VectoredCall, slot: int, buffers: SlotBuffers) -> list[int]:
        """All in one call; if that fails, slot by slot: a bad one must not hide the good ones."""
        if self._transfer_run(vectored_call, slot, buffers):
            return []
        return [
            index
            for index, buffer in enumerate(buffers)
            if not self._transfer_run(vectored_call, slot + index, [buffer])
        ]

    def _transfer_run(self, vectored_call: VectoredCall, slot: int, buffers: SlotBuffers) -> bool:
        try:
            moved = vectored_call(self._fd, buffers, slot * self.slot_bytes)
        except OSError:
            return False
        return moved == len(buffers) * self.slot_bytes


def _allocate_blocks(fd: int, num_bytes: int) -> None:
    """Raise OSError if the disk has no room, before others on it find it full for a while."""
    file_system = os.fstatvfs(fd)
    if num_bytes > file_system.f_bavail * file_system.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if num_bytes:
        os.posix_fallocate(fd, 0, num_bytes)
