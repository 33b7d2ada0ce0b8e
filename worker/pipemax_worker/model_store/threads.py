"""Work in threads while the calling thread watches, so that a signal always finds somebody awake.

The threads are daemons: one that a silent server holds must not keep the process from ending.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

_TICK_SECONDS = 0.05
_GOODBYE_SECONDS = 2.0

_T = TypeVar("_T")

Task = Callable[[threading.Event], _T]
"""Work that looks at the event now and then, and leaves early once it is set."""


def run_watched(work: Callable[[], _T], tick: Callable[[], None]) -> _T:
    """The result of one call that cannot look whether it shall stop."""
    [result] = run_in_threads([lambda _stop: work()], 1, tick)
    return result


def run_in_threads(
    tasks: Sequence[Task[_T]], num_threads: int, tick: Callable[[], None]
) -> list[_T]:
    """Results in the order of ``tasks``. ``tick`` runs in this thread, every 50 ms.

    The first error of a task, or whatever ``tick`` raises, stops all tasks and is raised here.
    """
    pool = _Threads(tasks)
    threads = [
        threading.Thread(target=pool.work, name=f"model-store-{index}", daemon=True)
        for index in range(min(num_threads, len(tasks)))
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                tick()
                thread.join(_TICK_SECONDS)
        tick()
    finally:
        pool.stop.set()
        for thread in threads:
            thread.join(_GOODBYE_SECONDS)
    return pool.results()


class _Threads(Generic[_T]):
    def __init__(self, tasks: Sequence[Task[_T]]) -> None:
        self.stop = threading.Event()
        self._tasks: queue.SimpleQueue[tuple[int, Task[_T]]] = queue.SimpleQueue()
        for numbered in enumerate(tasks):
            self._tasks.put(numbered)
        self._results: dict[int, _T] = {}
        self._error: BaseException | None = None

    def work(self) -> None:
        while not self.stop.is_set():
            try:
                index, task = self._tasks.get_nowait()
            except queue.Empty:
                return
            try:
                self._results[index] = task(self.stop)
            except BaseException as error:  # raised again by the thread that watches
                if not self.stop.is_set():
                    self._error = error
                self.stop.set()
                return

    def results(self) -> list[_T]:
        if self._error is not None:
            raise self._error
        return [self._results[index] for index in sorted(self._results)]
