"""A stage ends with its driver, and not with the terminal's Ctrl-C.

The driver decides how a job stops, so a stage ignores SIGINT and SIGTERM. That makes it the more
important that it cannot outlive the driver, however that died: a thread waits for the pipe that
multiprocessing keeps between a process and its parent (here the driver, not the fork server), which
the kernel closes with the driver. The fork server's death kills a stage by signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path

from pipemax_worker.contract.messages import PARK_INDEX_NAME

_PR_SET_PDEATHSIG = 1


def ignore_stop_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def die_with_driver(nvme_path: str | None) -> None:
    """From now on, exit when the driver is gone, and remove the KV file, which nobody will adopt,
    unless it is parked.

    Without effect in a process that multiprocessing did not start.
    """
    driver = multiprocessing.parent_process()
    if driver is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def wait_and_exit() -> None:
        driver.join()
        if nvme_path is not None and not (Path(nvme_path).parent / PARK_INDEX_NAME).exists():
            with contextlib.suppress(OSError):
                Path(nvme_path).unlink()
        os._exit(os.EX_UNAVAILABLE)

    threading.Thread(target=wait_and_exit, name="lifeline", daemon=True).start()
