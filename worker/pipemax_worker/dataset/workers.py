"""Names workers, so that one of the same node can tell whether another one's process is gone.

A name is ``HOST-BOOT-PID-START``: unique for the life of a process, and all that its successor on
that node needs to know. BOOT is the start of the kernel's boot id, START the process's start in
clock ticks since then, so that neither a restart nor a process id given again is mistaken for it.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_START_TICKS_FIELD = 21
_UNKNOWN = "0"


class WorkerName(msgspec.Struct, frozen=True):
    """The parts of a name; ``start`` and ``boot`` are "0" where the system does not tell."""

    host: str
    boot: str
    pid: int
    start: str

    def __str__(self) -> str:
        return f"{self.host}-{self.boot}-{self.pid}-{self.start}"


def name_this_worker() -> str:
    """The name of this process."""
    return str(WorkerName(socket.gethostname(), _boot_id(), os.getpid(), _start_ticks(os.getpid())))


def is_known_dead(worker: str, observer: str) -> bool:
    """Whether ``worker`` lived on the node of ``observer``, which is this process, and its process
    is gone. False if it is another node's: nobody here knows.

    Two containers of one node that share its host name but not its process ids judge each other
    wrongly; that costs work, not records.
    """
    other, this = parse_worker_name(worker), parse_worker_name(observer)
    if other is None or this is None or (other.host, other.boot) != (this.host, this.boot):
        return False
    if other == this:
        return False
    return not _is_running(other)


def parse_worker_name(name: str) -> WorkerName | None:
    """None for a name that is not of this form."""
    parts = name.rsplit("-", 3)
    if len(parts) != 4 or not parts[2].isdecimal():
        return None
    return WorkerName(parts[0], parts[1], int(parts[2]), parts[3])


def _is_running(worker: WorkerName) -> bool:
    try:
        os.kill(worker.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is there and not ours
    state, start = _state_and_start(worker.pid)
    # A zombie has ended; its parent, a container's first process perhaps, has not noticed yet.
    return start == worker.start and state not in ("Z", "X")


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()[:8]
    except OSError:
        return _UNKNOWN


def _start_ticks(pid: int) -> str:
    return _state_and_start(pid)[1]


def _state_and_start(pid: int) -> tuple[str, str]:
    """The kernel's letter for the state, and the start time in clock ticks since boot."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return _UNKNOWN, _UNKNOWN
    # The second field, the command in brackets, may hold anything; count behind it.
    fields = status.rpartition(")")[2].split()
    return fields[0], fields[_START_TICKS_FIELD - 2]
