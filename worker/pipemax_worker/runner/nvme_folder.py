"""The folder of one run's NVMe files: made at its start, gone at its end, swept if it crashed.

A run that was stopped may leave its folder behind with a ``park.json`` in it, for the next run of
the same job on this machine (``parking``). Folders carry the job's key in their names. A run that
lives holds a lock on its folder, which the kernel drops with the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipemax_worker.contract.messages import PARK_INDEX_NAME
from pipemax_worker.errors import KVTierError

FOLDER_PREFIX = "pipemax-kv-"
PARKED_DAYS = 7
"""So long parked KV is kept for a job that does not come back."""

_YOUNG_SECONDS = 60.0
_PARKED_SECONDS = PARKED_DAYS * 86400.0


class RunFolder:
    """A folder that this run alone uses. It is left behind at the end if ``park_index`` is in it.

    is_lasting   it survives this run's container: worth parking in.
    """

    def __init__(self, path: Path, is_lasting: bool) -> None:
        self.path = path
        self.is_lasting = is_lasting

    @property
    def park_index(self) -> Path:
        return self.path / PARK_INDEX_NAME


def derive_job_key(output_place: str) -> str:
    """Names a job among all that use the same NVMe folder: by where it writes."""
    return hashlib.sha256(output_place.encode()).hexdigest()[:16]


@contextlib.contextmanager
def nvme_run_folder(
    folder: Path | None, is_wanted: bool, job_key: str = "run"
) -> Iterator[RunFolder | None]:
    """A folder of this run's own for NVMe files, removed at the end unless KV is parked in it; None
    where none is wanted. One that a stopped run of the same job has left is taken up.

    ``folder`` None with ``is_wanted``: the system's temporary folder. What crashed runs have left
    beside it (a power cut leaves up to the whole tier) is removed first. Raises KVTierError.
    """
    if not is_wanted:
        yield None
        return
    parent = Path(tempfile.gettempdir()) if folder is None else folder
    try:
        parent.mkdir(parents=True, exist_ok=True)
        sweep_stale_folders(parent, job_key)
        found = _find_parked(parent, job_key) if folder is not None else None
        path, lock = found or _make_folder(parent, job_key)
    except OSError as error:
        raise KVTierError(
            f"kvCache.nvme: {parent}: cannot be written: {error.strerror or error}; "
            "choose another folder for the NVMe tier"
        ) from error
    run_folder = RunFolder(path, is_lasting=folder is not None)
    try:
        yield run_folder
    finally:
        if not run_folder.park_index.exists():
            shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def sweep_stale_folders(parent: Path, job_key: str | None = None) -> None:
    """Remove what dead runs have left in ``parent``, and what was parked too long ago by jobs other
    than ``job_key``: that one is here now, and may have been suspended for as long.

    A folder that nobody has locked is one of them, unless it is so young that its run may be just
    about to lock it. What may not be removed (another user's) stays.
    """
    for path in parent.glob(f"{FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError):
            if _age_seconds(path) > _YOUNG_SECONDS:
                with _locked(path):
                    is_own = path.name.startswith(f"{FOLDER_PREFIX}{job_key}-")
                    if not _is_parked(path, _PARKED_SECONDS if not is_own else math.inf):
                        shutil.rmtree(path, ignore_errors=True)


def remove_parked(folder: Path | None, job_key: str) -> None:
    """The job is finished: what its stopped runs have parked in ``folder`` is of no use."""
    if folder is not None:
        for index in folder.glob(f"{FOLDER_PREFIX}{job_key}-*/{PARK_INDEX_NAME}"):
            with contextlib.suppress(OSError), _locked(index.parent):
                shutil.rmtree(index.parent, ignore_errors=True)


def _is_parked(path: Path, at_most_seconds: float) -> bool:
    """Whether a stopped run has parked there, not longer ago than that."""
    try:
        return _age_seconds(path / PARK_INDEX_NAME) < at_most_seconds
    except FileNotFoundError:
        return False


def _age_seconds(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _find_parked(parent: Path, job_key: str) -> tuple[Path, int] | None:
    """A folder in which a stopped run of this job has parked, the latest first, and its lock. Those
    that other runs are about to take up are left to them."""
    indices = parent.glob(f"{FOLDER_PREFIX}{job_key}-*/{PARK_INDEX_NAME}")
    for index in sorted(indices, key=_modified_seconds, reverse=True):
        with contextlib.suppress(OSError):
            lock = _lock(index.parent)
            if os.access(index, os.F_OK):
                return index.parent, lock
            os.close(lock)
    return None


def _modified_seconds(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _make_folder(parent: Path, job_key: str) -> tuple[Path, int]:
    path = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{job_key}-", dir=parent))
    return path, _lock(path)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = _lock(folder)
    try:
        yield
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
