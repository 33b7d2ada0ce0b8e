"""Removes the folders of jobs that have ended from a node's disk. Runs as root on that node.

Whoever calls it names the jobs: the operator, which has asked the API server. Nothing else goes:
not the folder of a job that is not named, not one without root's marker, not one whose worker
still lives (it holds a lock, which the kernel drops with the process).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from pipemax_worker.runner.job_folder import (
    KV_NAME,
    MARKER_NAME,
    JobMarker,
    is_uid,
    read_marker,
)
from pipemax_worker.runner.nvme_folder import FOLDER_PREFIX

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RETRY_SECONDS = 0.5


class SweepReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of the jobs' folders, by UID.

    removed   gone now; one that was not there is gone too.
    busy      a worker lives in it: ask again later.
    failed    UID -> why it is still there.
    left      folders of other jobs: for the operator to find those that nobody knows any more.
    """

    removed: tuple[str, ...] = ()
    busy: tuple[str, ...] = ()
    failed: dict[str, str] = {}
    left: tuple[JobMarker, ...] = ()


class _BusyError(Exception):
    """A worker holds a lock in the folder."""


def sweep_job_folders(
    root: Path,
    uids: Iterable[str],
    wait_seconds: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> SweepReport:
    """Remove ``root/UID`` for each of ``uids``; a worker that lives in one has ``wait_seconds``
    to end. Raises nothing: what goes wrong is in the report."""
    wanted = dict.fromkeys(uids)
    until = clock() + wait_seconds
    removed: list[str] = []
    failed: dict[str, str] = {}
    busy = list(wanted)
    while True:
        busy = [uid for uid in busy if _is_still_busy(root, uid, removed, failed)]
        if not busy or clock() >= until:
            break
        sleep(_RETRY_SECONDS)
    left = tuple(one for one in find_job_folders(root) if one.uid not in wanted)
    return SweepReport(tuple(removed), tuple(busy), failed, left)


def find_job_folders(root: Path) -> Iterator[JobMarker]:
    """The folders in ``root`` that carry a marker, in the order of their UIDs."""
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(root)):
            if is_uid(name) and (marker := read_marker(root / name)) is not None:
                yield marker


def _is_still_busy(root: Path, uid: str, removed: list[str], failed: dict[str, str]) -> bool:
    try:
        _remove(root, uid)
    except _BusyError:
        return True
    except OSError as error:
        failed[uid] = f"{error.filename or uid}: {error.strerror or error}"
    else:
        removed.append(uid)
    return False


def _remove(root: Path, uid: str) -> None:
    """The marker goes last, so that a sweep that is cut off is done again by the next one."""
    folder = root / uid
    if not is_uid(uid):
        raise OSError(0, "not a job's UID", uid)
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or read_marker(folder) is None:
        _remove_unmarked(folder)
        return
    kv_folder = folder / KV_NAME
    if kv_folder.exists():  # else an earlier sweep was cut off after it
        with _all_locked(kv_folder):
            shutil.rmtree(kv_folder)
    for path in folder.iterdir():
        if path.name.startswith(MARKER_NAME) and path.name != MARKER_NAME:
            path.unlink()  # of a pod that ended while it wrote
    _check_only_marker(folder)
    (folder / MARKER_NAME).unlink()
    folder.rmdir()


def _remove_unmarked(folder: Path) -> None:
    """One that is empty: its maker ended before the marker. Anything else is not ours."""
    try:
        folder.rmdir()
    except OSError as error:
        raise OSError(error.errno, f"no folder of a job: without {MARKER_NAME}", folder) from error


def _check_only_marker(folder: Path) -> None:
    others = sorted(path.name for path in folder.iterdir() if path.name != MARKER_NAME)
    if others:
        raise OSError(0, f"holds what is not ours: {', '.join(others[:3])}", str(folder))


@contextlib.contextmanager
def _all_locked(kv_folder: Path) -> Iterator[None]:
    """Every run's folder, so that no run takes one up while it goes. Raises _BusyError."""
    with contextlib.ExitStack() as stack:
        for path in kv_folder.glob(f"{FOLDER_PREFIX}*"):
            try:
                descriptor = os.open(path, _FOLDER_FLAGS)
            except OSError:
                continue  # no folder: nobody can have locked it
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise _BusyError from error
        yield
