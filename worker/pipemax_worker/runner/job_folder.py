"""The folder of one InferenceJob on a node's disk: made by root, used by the worker's user.

    ROOT/UID/                  root's: nobody else can put another in its place
    ROOT/UID/pipemax-job.json  whose it is: without it, nobody takes the folder for ours
    ROOT/UID/kv/               the worker's own, and all of it that a worker's container sees

``ROOT`` is the job's ``kvCache.nvme.hostPath``. The container that calls :func:`prepare_job_folder`
is the only one of a pod that runs as root; what it made is removed by ``folder_sweep``.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import msgspec

from pipemax_worker.errors import KVTierError, OutputError

MARKER_NAME = "pipemax-job.json"
KV_NAME = "kv"

_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class JobMarker(msgspec.Struct, frozen=True):
    """Whose folder it is: the InferenceJob as the API server knows it."""

    uid: str
    namespace: str
    name: str


def is_uid(name: str) -> bool:
    """Whether ``name`` can be a job's UID, and so one folder's name and no path."""
    return _UID.fullmatch(name) is not None


def prepare_job_folder(root: Path, marker: JobMarker, user: int) -> None:
    """Make the job's folder in ``root``, and hand its inner folder to ``user`` (and its group).

    Again and again with the same result: every pod of the job on the node calls it. What a stopped
    run has parked there stays. Raises KVTierError, with what is to be done.
    """
    if not is_uid(marker.uid):
        raise KVTierError(f"{marker.uid!r} is no UID of a job")
    folder = root / marker.uid
    try:
        _make_folder(folder, 0o755)
        if read_marker(folder) is None:
            _write_marker(folder, marker)
        _make_folder(folder / KV_NAME, 0o700)
        _give(folder / KV_NAME, user)
    except OSError as error:
        raise KVTierError(
            f"kvCache.nvme: {error.filename or folder} on the node: {error.strerror}; see that "
            "hostPath is a folder on a disk that root may write to"
        ) from error


def hand_over(folder: Path, user: int) -> bool:
    """Give ``folder`` to ``user`` if it is root's and empty: the kubelet has just made it for a
    ``hostPath`` that did not exist. Any other is left as it is. Raises OutputError."""
    try:
        with os.scandir(folder) as entries:
            is_new = folder.lstat().st_uid == 0 and next(entries, None) is None
        if is_new:
            _give(folder, user)
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be handed to user {user}: {error.strerror}; make the folder on the "
            f"node and give it to that user"
        ) from error
    return is_new


def read_marker(folder: Path) -> JobMarker | None:
    """The marker that root has left in a job's folder; None where there is none, or another's."""
    try:
        descriptor = os.open(folder / MARKER_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            marker = msgspec.json.decode(file.read(4096), type=JobMarker)
    except (OSError, msgspec.DecodeError):
        return None
    return marker if marker.uid == folder.name else None


def _make_folder(path: Path, mode: int) -> None:
    try:
        path.mkdir(mode)
    except FileExistsError:
        os.close(os.open(path, _FOLDER_FLAGS))  # a file or a link of that name is refused here


def _write_marker(folder: Path, marker: JobMarker) -> None:
    """Whole or not at all: two pods of a job may do it at the same time."""
    descriptor, unfinished = tempfile.mkstemp(prefix=f"{MARKER_NAME}.", dir=folder)
    with open(descriptor, "wb") as file:
        file.write(msgspec.json.encode(marker))
    os.rename(unfinished, folder / MARKER_NAME)


def _give(folder: Path, user: int) -> None:
    """By its descriptor, so that what is checked is what is given."""
    descriptor = os.open(folder, _FOLDER_FLAGS)
    try:
        os.fchown(descriptor, user, user)
    finally:
        os.close(descriptor)
