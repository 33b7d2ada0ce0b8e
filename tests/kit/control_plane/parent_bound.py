"""Processes that end with the test process that started them, however that one ends."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO

_IF_BOUND = 'test "$PPID" = "$0" && exec "$@"'


def start_bound(
    command: Sequence[str], log: IO[bytes], environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """``command`` in a session of its own, with SIGKILL by the kernel when we are gone: also where
    we were killed ourselves and no fixture comes to its end. (A `preexec_fn` could ask for the
    same, and forks a process with threads.)

    The kernel watches the thread that starts the process: a thread that ends takes it along. It
    watches from when it is asked to: a process whose parent is gone by then ends by itself.
    """
    setpriv = shutil.which("setpriv")
    assert setpriv, "setpriv is missing: install util-linux 2.33 or newer"
    return subprocess.Popen(
        [setpriv, "--pdeathsig", "KILL", "sh", "-c", _IF_BOUND, str(os.getpid()), *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
