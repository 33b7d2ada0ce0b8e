"""Tries are spaced out, and end in time."""

from __future__ import annotations

import pytest
from kit.store import ManualClock
from pipemax_worker.dataset.backoff import Backoff, RetryPolicy


def _delays(policy: RetryPolicy, seconds_a_try: float = 0.0) -> list[float]:
    clock, delays = ManualClock(), list[float]()

    def sleep(seconds: float) -> None:
        delays.append(seconds)
        clock.seconds += seconds

    backoff = Backoff(policy, clock, sleep)
    clock.seconds += seconds_a_try
    while backoff.wait():
        assert backoff.num_tries == len(delays) + 1
        clock.seconds += seconds_a_try
    return delays


def test_delays_double_up_to_a_limit_and_use_up_the_time() -> None:
    delays = _delays(RetryPolicy(max_seconds=60.0, first_delay_seconds=1.0, max_delay_seconds=8.0))
    for number, delay in enumerate(delays[:-1]):
        longest = min(2.0**number, 8.0)
        assert longest / 2 <= delay <= longest
    assert sum(delays) == pytest.approx(60.0)


def test_the_time_of_the_tries_counts() -> None:
    delays = _delays(RetryPolicy(max_seconds=60.0, max_delay_seconds=1.0), seconds_a_try=25.0)
    assert len(delays) == 2


def test_no_time_is_one_try() -> None:
    assert _delays(RetryPolicy(max_seconds=0.0)) == []


def test_workers_do_not_come_back_together() -> None:
    policy = RetryPolicy(max_seconds=5.0)
    assert _delays(policy)[0] != _delays(policy)[0]
