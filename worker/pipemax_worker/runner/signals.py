"""Stop requests: the first SIGINT or SIGTERM asks for an orderly stop, a second SIGINT leaves."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

EXIT_INTERRUPTED = 128 + signal.SIGINT


class StopRequest:
    """Set by a signal, read by the run's loop between two steps."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def __bool__(self) -> bool:
        return self.signal_name is not None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Handle SIGINT and SIGTERM inside the block. Call it from the main thread."""
    request = StopRequest()

    def handle(number: int, _frame: FrameType | None) -> None:
        if request and number == signal.SIGINT:
            os._exit(EXIT_INTERRUPTED)
        request.signal_name = signal.Signals(number).name

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
