"""The NVMe tier's folder: what is free, and how fast it is, by a short trial."""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipemax_worker.preflight.facts import NvmeFacts

PROBE_BYTES = 64 << 20
"""Most that is written: within the write cache of a consumer drive, so this is its best speed."""

PROBE_SECONDS = 0.5
"""Longest time of writing, and of reading."""

CHUNK_BYTES = 4 << 20


def measure_nvme(
    folder: Path,
    max_bytes: int = PROBE_BYTES,
    max_seconds: float = PROBE_SECONDS,
    monotonic: Callable[[], float] = time.perf_counter,
) -> NvmeFacts:
    """Write and read a file without a name in ``folder``, past the page cache where it can be.

    Bounded in bytes (also by half of what is free) and in seconds; nothing stays behind, whatever
    happens. Nothing is raised: ``fault`` says what went wrong. Without room for one chunk there is
    no trial.
    """
    free_bytes = 0
    try:
        free_bytes = _free_bytes(folder)
        max_bytes = min(max_bytes, free_bytes // 2)
        with tempfile.TemporaryFile(dir=folder) as file:
            is_direct = _go_direct(file.fileno())
            rates = _try_out(file.fileno(), is_direct, max_bytes, max_seconds, monotonic)
        return NvmeFacts(
            place=str(folder),
            free_bytes=free_bytes + _own_bytes(folder),
            is_direct=is_direct,
            write_bytes_per_second=rates[0],
            read_bytes_per_second=rates[1],
        )
    except OSError as error:
        fault = error.strerror or str(error)
        return NvmeFacts(place=str(folder), free_bytes=free_bytes, fault=fault)


def _try_out(
    fd: int,
    is_direct: bool,
    max_bytes: int,
    max_seconds: float,
    monotonic: Callable[[], float],
) -> tuple[float, float] | tuple[None, None]:
    """Bytes a second, written and read."""
    if max_bytes < CHUNK_BYTES:
        return None, None
    with mmap.mmap(-1, CHUNK_BYTES) as chunk:  # page-aligned, as O_DIRECT wants it
        chunk.write(os.urandom(CHUNK_BYTES))  # a disk that compresses gains nothing
        start, written = monotonic(), 0
        while written + CHUNK_BYTES <= max_bytes and (
            not written or monotonic() - start < max_seconds
        ):
            written += os.pwrite(fd, chunk, written)
        if not is_direct:
            os.fsync(fd)
        write_rate = written / max(1e-9, monotonic() - start)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # not to be read from the cache
        start, done = monotonic(), 0
        while done < written and (not done or monotonic() - start < max_seconds):
            done += os.preadv(fd, [chunk], done)
        return write_rate, done / max(1e-9, monotonic() - start)


def _go_direct(fd: int) -> bool:
    """Some file systems refuse the flag; then the page cache is in between."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
    except OSError:
        return False
    return True


def _free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _own_bytes(folder: Path) -> int:
    """The tier's files that an earlier run has parked there: they are taken up, not added to."""
    return sum(path.stat().st_blocks * 512 for path in folder.glob("stage-*.kv"))
