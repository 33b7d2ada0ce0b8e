"""Stop requests: the first SIGINT or SIGTERM asks for an orderly stop, a second SIGINT leaves."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType

from pipemax_worker.errors import StoppedError

EXIT_INTERRUPTED = 128 + signal.SIGINT


class StopRequest:
    """Set by a signal, read by the run's loop between two steps.

    received_seconds   on the monotonic clock: the grace runs from there.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self.received_seconds: float | None = None
        self._interrupts = False

    def __bool__(self) -> bool:
        return self.signal_name is not None

    def receive(self, signal_name: str) -> None:
        """A signal has come. Only the first one counts; inside :meth:`interrupting` it raises."""
        if self.signal_name is not None:
            return
        self.received_seconds = time.monotonic()
        self.signal_name = signal_name
        if self._interrupts:
            raise self.as_error()

    def as_error(self) -> StoppedError:
        return StoppedError(
            f"stopped by {self.signal_name}; what is finished is written, "
            "and the same command continues the job"
        )

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Inside, a stop raises StoppedError at once: for what takes long (loading a model) and
        leaves nothing that would have to be written first."""
        if self:
            raise self.as_error()
        self._interrupts = True
        try:
            yield
        finally:
            self._interrupts = False


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Handle SIGINT and SIGTERM inside the block. Call it from the main thread."""
    request = StopRequest()

    def handle(number: int, _frame: FrameType | None) -> None:
        if request and number == signal.SIGINT:
            os._exit(EXIT_INTERRUPTED)
        request.receive(signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
