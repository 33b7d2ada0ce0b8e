"""One process at a time fetches a model; the others wait and say for whom.

``flock`` ends with its process, so a killed holder never blocks anybody. Where a file system passes
it over in silence (some network ones), two processes may fetch the same file: what they publish is
still whole and verified, since both rename what they have checked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from pipemax_worker.errors import ModelDownloadError
from pipemax_worker.model_store.watch import Watch

_POLL_SECONDS = 0.1
_MAX_HOLDER_BYTES = 500


@contextlib.contextmanager
def locked(path: Path, name: str, watch: Watch) -> Iterator[None]:
    """Hold the lock at ``path`` inside the block; ``name`` is the model, for who has to wait.

    Raises ModelDownloadError where the file cannot be made, and what ``watch.check_stop`` raises.
    """
    descriptor = _open(path)
    try:
        _acquire(descriptor, name, watch)
        _write_holder(descriptor, f"process {os.getpid()} on {socket.gethostname()}")
        yield
        _write_holder(descriptor, "")
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise ModelDownloadError(
            f"{path}: the model cache cannot be written: {error}; name another folder in "
            "spec.model.cacheDir, or correct its rights"
        ) from error


def _acquire(descriptor: int, name: str, watch: Watch) -> None:
    has_said = False
    while True:
        watch.check_stop()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not has_said:
                watch.say(f"waiting for {_holder(descriptor)}, which fetches {name}")
                has_said = True
            time.sleep(_POLL_SECONDS)
        else:
            return


def _holder(descriptor: int) -> str:
    text = os.pread(descriptor, _MAX_HOLDER_BYTES, 0).decode("utf-8", "replace").strip()
    return text or "another process"


def _write_holder(descriptor: int, text: str) -> None:
    """A full disk must not keep the lock from being held: the text is a courtesy."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode("utf-8", "replace"), 0)
