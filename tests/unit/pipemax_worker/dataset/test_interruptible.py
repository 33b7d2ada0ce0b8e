"""Signal handlers run while a native call blocks."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest
from pipemax_worker.dataset.interruptible import run_interruptibly


class Stopped(Exception):
    pass


@pytest.fixture
def blocked() -> Iterator[threading.Event]:
    """What a call waits for that would never end by itself."""
    event = threading.Event()
    before = signal.getsignal(signal.SIGUSR1)
    yield event
    event.set()
    signal.signal(signal.SIGUSR1, before)


def _block(release: threading.Event) -> str:
    """A call that sends its own process a signal and then hangs."""
    os.kill(os.getpid(), signal.SIGUSR1)
    assert release.wait(60)
    return "ended"


def test_a_handler_runs_and_the_call_goes_on(blocked: threading.Event) -> None:
    signal.signal(signal.SIGUSR1, lambda *_: blocked.set())
    assert run_interruptibly(lambda: _block(blocked)) == "ended"


def test_a_handler_that_raises_leaves_the_call_alone(blocked: threading.Event) -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Stopped

    signal.signal(signal.SIGUSR1, stop)
    with pytest.raises(Stopped):
        run_interruptibly(lambda: _block(blocked))


def test_results_and_errors_are_those_of_the_call() -> None:
    assert run_interruptibly(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        run_interruptibly(lambda: 1 / 0)


def test_other_threads_call_by_themselves() -> None:
    with ThreadPoolExecutor(1) as worker:
        caller = worker.submit(lambda: run_interruptibly(threading.get_ident)).result()
        assert caller == worker.submit(threading.get_ident).result()
    assert run_interruptibly(threading.get_ident) != threading.get_ident()
