"""Waiting for what a cluster does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def eventually(
    found: Callable[[], Any],
    timeout_seconds: float = 120.0,
    describe: Callable[[], str] | None = None,
) -> Any:
    """The first true answer.

    AssertionError if there is none in time, with what ``describe`` knows, else the last answer.
    """
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(0.2)
    known = describe() if describe else f"the last answer: {answer!r}"
    raise AssertionError(f"not in time; {known}")
