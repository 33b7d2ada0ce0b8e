"""Which key is due when: one loop, each key at most once in it and at most once at work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

Key = tuple[str, str]

logger = logging.getLogger(__name__)

MAX_BACKOFF_SECONDS = 60.0
TURN_SECONDS = 5.0
MAX_AT_WORK = 50


class Requeue:
    """``now(key)``: as soon as possible. What ``work`` returns is when the key is due again; what
    it raises is logged, and the key comes back after a growing while.

    A key that is named while it is at work comes once more afterwards: nothing is missed.
    """

    def __init__(
        self, work: Callable[[Key], Awaitable[float | None]], monotonic: Callable[[], float]
    ) -> None:
        self._work = work
        self._monotonic = monotonic
        self._due: dict[Key, float] = {}
        self._at_work: dict[Key, asyncio.Task[None]] = {}
        self._failures: dict[Key, int] = {}
        self._wake = asyncio.Event()
        self._last_turn = monotonic()

    def now(self, key: Key) -> None:
        """``key`` is due at once."""
        self._due[key] = self._monotonic()
        self._wake.set()

    def idle_seconds(self) -> float:
        """Since the loop last turned."""
        return self._monotonic() - self._last_turn

    async def run(self) -> None:
        """Turn until cancelled; then what is at work is cancelled too."""
        try:
            while True:
                self._last_turn = self._monotonic()
                self._start_due()
                await self._sleep()
        finally:
            for task in self._at_work.values():
                task.cancel()

    def _start_due(self) -> None:
        now = self._monotonic()
        for key in [key for key, due in self._due.items() if due <= now]:
            if key in self._at_work or len(self._at_work) >= MAX_AT_WORK:
                continue
            del self._due[key]
            self._at_work[key] = asyncio.create_task(self._attend(key))

    async def _attend(self, key: Key) -> None:
        again: float | None
        try:
            again = await self._work(key)
            self._failures.pop(key, None)
        except Exception as error:
            count = self._failures[key] = self._failures.get(key, 0) + 1
            again = min(MAX_BACKOFF_SECONDS, 0.5 * 2 ** min(count, 10))
            logger.warning("%s/%s: tried again in %.1f s: %s", *key, again, error)
        finally:
            del self._at_work[key]
            self._wake.set()
        if again is not None:
            due = self._monotonic() + again
            self._due[key] = min(due, self._due.get(key, due))

    async def _sleep(self) -> None:
        """Until a key is due, one is named, or a turn is over."""
        now = self._monotonic()
        waiting = [due - now for key, due in self._due.items() if key not in self._at_work]
        seconds = max(0.01, min([*waiting, TURN_SECONDS]))
        self._wake.clear()
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
        except TimeoutError:
            return
