"""A disk that is nearly full: a small tmpfs, or a store that says so where none can be mounted."""

from __future__ import annotations

import builtins
import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from pipemax_worker.dataset import local_store

DISK_BYTES = 4 << 20
PAGE_BYTES = 4096


class SmallDisk:
    """``folder`` has room for ``num_bytes`` until :meth:`free`."""

    def __init__(self, folder: Path, is_mounted: bool) -> None:
        self.folder = folder
        self.is_mounted = is_mounted
        self.room_bytes: int | None = None
        self._filler = folder / "filler"

    def fill(self, num_bytes_left: int) -> None:
        """Use up all but so many bytes."""
        self.room_bytes = _size_bytes(self.folder) + num_bytes_left
        if self.is_mounted:
            found = os.statvfs(self.folder)
            self._filler.write_bytes(bytes(found.f_bavail * found.f_frsize - num_bytes_left))

    def free(self) -> None:
        """Somebody has deleted what filled it."""
        self.room_bytes = None
        self._filler.unlink(missing_ok=True)

    def check_room(self, path: Path) -> None:
        """Raises OSError, as a write would, where nothing could be mounted."""
        is_inside = path.is_relative_to(self.folder) and not self.is_mounted
        if is_inside and self.room_bytes is not None and _size_bytes(self.folder) > self.room_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def small_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallDisk]:
    """``folder`` as a disk of its own for the block, with nothing left behind."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    try:
        is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        is_mounted = False
    disk = SmallDisk(folder, is_mounted)

    def open_with_room(path: Path, mode: str) -> IO[Any]:
        disk.check_room(path)
        return builtins.open(path, mode)

    monkeypatch.setattr(local_store, "open", open_with_room, raising=False)
    try:
        yield disk
    finally:
        if is_mounted:
            subprocess.run(["umount", str(folder)], check=True)


def _size_bytes(folder: Path) -> int:
    """In whole pages, as a tmpfs counts."""
    sizes = (path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return sum(-(-size // PAGE_BYTES) * PAGE_BYTES for size in sizes)
