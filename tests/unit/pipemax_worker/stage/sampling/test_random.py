"""Random numbers: functions of (seed, position), evenly spread, unlike for like seeds."""

from __future__ import annotations

import statistics

from pipemax_worker.stage.sampling.random import uniform

KNOWN = [0.6524484863740322, 0.7012121095215252, 0.7238582745899125]


def test_known_values() -> None:
    """Stored: a job that is continued by a later version must go on with the same numbers."""
    assert [uniform(0, 0), uniform(0, 1), uniform(2**64 - 1, 7)] == KNOWN


def test_in_the_unit_interval_and_even() -> None:
    numbers = [uniform(seed, position) for seed in range(50) for position in range(200)]
    assert all(0.0 <= number < 1.0 for number in numbers)
    assert abs(statistics.fmean(numbers) - 0.5) < 0.01
    assert abs(statistics.variance(numbers) - 1 / 12) < 0.005
    counts = [0] * 10
    for number in numbers:
        counts[int(number * 10)] += 1
    assert max(counts) - min(counts) < 250


def test_neighbouring_seeds_and_positions_share_nothing() -> None:
    numbers = {uniform(seed, position) for seed in range(100) for position in range(100)}
    assert len(numbers) == 10_000


def test_seeds_beyond_64_bits_and_below_zero_are_taken_modulo() -> None:
    assert uniform(-1, 3) == uniform(2**64 - 1, 3)
