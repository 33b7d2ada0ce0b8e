"""Work in threads that a watching thread can end."""

import threading

import pytest
from pipemax_worker.model_store.threads import run_in_threads, run_watched


def ignore() -> None:
    """No news."""


def test_results_in_order_and_no_more_threads_than_asked() -> None:
    running, most, lock = 0, 0, threading.Lock()
    enough = threading.Barrier(2)

    def task(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        enough.wait(30)
        with lock:
            running -= 1
        return number

    tasks = [lambda _stop, n=n: task(n) for n in range(6)]
    assert run_in_threads(tasks, 2, ignore) == list(range(6))
    assert most == 2


def test_nothing_to_do() -> None:
    assert run_in_threads([], 4, ignore) == []


def test_the_first_error_stops_the_others() -> None:
    stopped = threading.Event()

    def waits(stop: threading.Event) -> None:
        assert stop.wait(30)
        stopped.set()
        raise RuntimeError("of a task that was stopped")

    def fails(_stop: threading.Event) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run_in_threads([waits, fails, waits], 2, ignore)
    assert stopped.is_set()


def test_whoever_watches_can_stop_all() -> None:
    seen = threading.Event()

    def waits(stop: threading.Event) -> None:
        assert stop.wait(30)
        seen.set()

    def tick() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run_in_threads([waits], 1, tick)
    assert seen.is_set()


def test_a_call_that_cannot_look_is_watched_all_the_same() -> None:
    calls = []
    gate = threading.Event()

    def tick() -> None:
        calls.append(1)
        if len(calls) == 3:
            gate.set()

    assert run_watched(lambda: gate.wait(30), tick) is True
    assert len(calls) >= 3
