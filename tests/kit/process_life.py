"""Whether processes that a test has not started itself are still there."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path


def is_running(process_id: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        status = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(process_ids: Collection[int], timeout_seconds: float = 60.0) -> None:
    """Raises AssertionError if one of them is still running then."""
    deadline = time.monotonic() + timeout_seconds
    while any(map(is_running, process_ids)):
        assert time.monotonic() < deadline, f"of {process_ids} some are still running"
        time.sleep(0.01)
