"""The folder of one run's NVMe files: made at its start, gone at its end, swept if it crashed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipemax_worker.errors import KVTierError

FOLDER_PREFIX = "pipemax-kv-"
_YOUNG_SECONDS = 60.0


@contextlib.contextmanager
def nvme_run_folder(folder: Path | None, is_wanted: bool) -> Iterator[Path | None]:
    """A folder of this run's own for NVMe files, removed at the end; None where none is wanted.

    ``folder`` None with ``is_wanted``: the system's temporary folder. Files that a crashed run has
    left beside it (a power cut leaves up to the whole tier) are removed first. A run that lives
    holds a lock on its folder, which the kernel drops with the process. Raises KVTierError.
    """
    if not is_wanted:
        yield None
        return
    parent = Path(tempfile.gettempdir()) if folder is None else folder
    try:
        parent.mkdir(parents=True, exist_ok=True)
        sweep_stale_folders(parent)
        run_folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=parent))
        lock = _lock(run_folder)
    except OSError as error:
        raise KVTierError(
            f"kvCache.nvme: {parent}: cannot be written: {error.strerror or error}; "
            "choose another folder for the NVMe tier"
        ) from error
    try:
        yield run_folder
    finally:
        shutil.rmtree(run_folder, ignore_errors=True)
        os.close(lock)


def sweep_stale_folders(parent: Path) -> None:
    """Remove what dead runs have left in ``parent``.

    A folder that nobody has locked is one of them, unless it is so young that its run may be just
    about to lock it. What may not be removed (another user's) stays.
    """
    for path in parent.glob(f"{FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _YOUNG_SECONDS:
                lock = _lock(path)
                try:
                    shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(lock)


def _lock(folder: Path) -> int:
    """Lock a folder as long as the descriptor is open. Raises BlockingIOError if it is locked."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
