"""Which key is due when: one loop, each key at most once in it and at most once at work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from pipemax_operator.api_server import NotLeadingError
from pipemax_operator.wake_up import wait_for_word

Key = tuple[str, str]

logger = logging.getLogger(__name__)

MAX_BACKOFF_SECONDS = 60.0
TURN_SECONDS = 5.0
MAX_AT_WORK = 50

# Keys that come again by the clock alone: a thousand running jobs are looked at in turn, so that
# their progress costs the API server this many status writes a second and no more.
MAX_SCHEDULED_PER_SECOND = 20.0


class Requeue:
    """``now(key)``: as soon as possible. What ``work`` returns is when the key is due again; what
    it raises is logged, and the key comes back after a growing while.

    A key that is named while it is at work comes once more afterwards: nothing is missed. Keys
    may be named while the loop does not run; they wait for it.
    """

    def __init__(
        self,
        work: Callable[[Key], Awaitable[float | None]],
        monotonic: Callable[[], float],
        max_scheduled_per_second: float = MAX_SCHEDULED_PER_SECOND,
    ) -> None:
        self._work = work
        self._monotonic = monotonic
        self._due: dict[Key, float] = {}
        self._named: set[Key] = set()
        self._at_work: dict[Key, asyncio.Task[None]] = {}
        self._failures: dict[Key, int] = {}
        self._wake = asyncio.Event()
        self._last_turn: float | None = None
        self._rate = max_scheduled_per_second
        self._credit, self._credited_at = max_scheduled_per_second, monotonic()

    def now(self, key: Key) -> None:
        """``key`` is due at once."""
        self._due[key] = self._monotonic()
        self._named.add(key)
        self._wake.set()

    def __len__(self) -> int:
        """Keys that are due now and have not begun."""
        now = self._monotonic()
        return sum(due <= now for due in self._due.values())

    def idle_seconds(self) -> float:
        """Since the loop last turned; 0 while it does not run."""
        return 0.0 if self._last_turn is None else self._monotonic() - self._last_turn

    async def run(self) -> None:
        """Turn until cancelled; then what is at work is cancelled too, and named again."""
        try:
            while True:
                self._last_turn = self._monotonic()
                self._start_due()
                await self._sleep()
        finally:
            self._last_turn = None
            await self._drop_work()

    async def _drop_work(self) -> None:
        tasks = dict(self._at_work)
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        for key in tasks:
            self.now(key)

    def _start_due(self) -> None:
        """Those that were named first, then those whose time has come, as far as credit goes."""
        now = self._monotonic()
        self._credit = min(self._rate, self._credit + (now - self._credited_at) * self._rate)
        self._credited_at = now
        due = [(key not in self._named, at, key) for key, at in self._due.items() if at <= now]
        for is_scheduled, _, key in sorted(due):
            if len(self._at_work) >= MAX_AT_WORK:
                return
            if key in self._at_work or (is_scheduled and self._credit < 1):
                continue
            self._credit -= is_scheduled
            del self._due[key]
            self._named.discard(key)
            self._at_work[key] = asyncio.create_task(self._attend(key))

    async def _attend(self, key: Key) -> None:
        again: float | None
        try:
            again = await self._work(key)
            self._failures.pop(key, None)
        except NotLeadingError:
            again = 0.0  # whoever leads next will see; we ask again if that is us
        except Exception as error:
            count = self._failures[key] = self._failures.get(key, 0) + 1
            again = min(MAX_BACKOFF_SECONDS, 0.5 * 2 ** min(count, 10))
            logger.warning("%s/%s: tried again in %.1f s: %s", *key, again, error or repr(error))
        finally:
            del self._at_work[key]
            self._wake.set()
        if again is not None:
            due = self._monotonic() + again
            self._due[key] = min(due, self._due.get(key, due))

    async def _sleep(self) -> None:
        """Until a key is due and may begin, one is named, or a turn is over."""
        now = self._monotonic()
        waiting = [
            max(due - now, 0.0 if key in self._named else (1 - self._credit) / self._rate)
            for key, due in self._due.items()
            if key not in self._at_work
        ]
        is_full = len(self._at_work) >= MAX_AT_WORK
        seconds = TURN_SECONDS if is_full else max(0.01, min([*waiting, TURN_SECONDS]))
        self._wake.clear()
        await wait_for_word(self._wake, seconds)
