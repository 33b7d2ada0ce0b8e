"""Ports for servers that want to be told theirs, and bind it seconds later.

A port that the kernel gives out (``bind`` to 0) may be gone by then: it lies in the range from
which every outgoing connection on the machine gets its own end. Those here lie outside of it, and
no two processes of the tests get the same one.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST, _HIGHEST = 15_000, 65_535
_NUM_TRIES = 1000

# Of our own: a test that seeds the global one must not get another's ports.
_random = random.SystemRandom()


def free_port(address: str = "127.0.0.1") -> int:
    """Free at ``address``, and not given to anybody else as long as this process lives.

    Raises RuntimeError if there is none.
    """
    candidates = _candidates()
    for _ in range(_NUM_TRIES):
        port = _random.choice(candidates)
        if _reserve(port) and _is_free(address, port):
            return port
    raise RuntimeError(f"no free port at {address}")


def _candidates() -> range:
    """Below the range of outgoing connections, or above it where that begins too low."""
    first, last = map(int, _EPHEMERAL.read_text(encoding="ascii").split())
    below, above = range(_LOWEST, first), range(last + 1, _HIGHEST + 1)
    found = max(below, above, key=len)
    return found if len(found) >= _NUM_TRIES else range(_LOWEST, _HIGHEST + 1)


def _reserve(port: int) -> bool:
    """By a socket that has a name and no file, and is gone with this process."""
    mark = socket.socket(socket.AF_UNIX)
    try:
        mark.bind(f"\0pipemax-tests/port-{port}")
    except OSError:
        mark.close()
        return False
    mark.detach()  # held until the process ends
    return True


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
