"""Waiting between tries: exponential with jitter, bounded in time.

After M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 (equal jitter: half
of the delay is fixed, half is random), so that many workers do not come back at the same moment.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import msgspec

from pipemax_worker.contract.clock import Clock


class RetryPolicy(msgspec.Struct, frozen=True):
    """For how long a failing store is tried again, and how often."""

    max_seconds: float = 120.0
    first_delay_seconds: float = 0.1
    max_delay_seconds: float = 10.0


class Backoff:
    """One operation's tries. ``num_tries`` counts them, the first one included."""

    def __init__(
        self, policy: RetryPolicy, clock: Clock, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.num_tries = 1
        self._policy = policy
        self._clock = clock
        self._sleep = sleep
        self._started_seconds = clock.now()

    @property
    def elapsed_seconds(self) -> float:
        """Since the first try began."""
        return self._clock.now() - self._started_seconds

    def wait(self) -> bool:
        """Sleep before the next try; False, at once, if the time is used up."""
        left_seconds = self._policy.max_seconds - self.elapsed_seconds
        if left_seconds <= 0:
            return False
        delay = self._policy.first_delay_seconds * 2.0 ** min(self.num_tries - 1, 32)
        delay = min(delay, self._policy.max_delay_seconds) * random.uniform(0.5, 1.0)
        self._sleep(min(delay, left_seconds))
        self.num_tries += 1
        return True
