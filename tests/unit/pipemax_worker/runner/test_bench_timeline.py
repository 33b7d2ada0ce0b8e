"""The steady part of a run: after the first tenth is done, until nobody waits."""

from __future__ import annotations

import msgspec
import pytest
from pipemax_worker.contract.statistics import EngineStatistics, StepRecord
from pipemax_worker.runner.bench_timeline import Timeline


class FakeEngine:
    """Each step takes 2 s, computes 10 prompt tokens and samples 5."""

    def __init__(self) -> None:
        self.num_steps = 0
        self.num_waiting = 0
        self._taken = 0

    def now(self) -> float:
        return 2.0 * self.num_steps

    @property
    def statistics(self) -> EngineStatistics:
        steps = self.num_steps
        return EngineStatistics(
            num_steps=steps, num_prompt_tokens=10 * steps, num_generated_tokens=5 * steps
        )

    def take_step_records(self) -> list[StepRecord]:
        new = range(self._taken, self.num_steps)
        self._taken = self.num_steps
        return [StepRecord(sequence, 15, 10, 2.0) for sequence in new]


def run(steps: list[tuple[int, int]], num_requests: int) -> Timeline:
    """Steps as (finished so far, waiting)."""
    engine = FakeEngine()
    timeline = Timeline(engine, engine, num_requests)  # type: ignore[arg-type]
    for num_finished, num_waiting in steps:
        engine.num_steps += 1
        engine.num_waiting = num_waiting
        timeline.note_step(num_finished)
    return timeline


def test_from_the_first_tenth_until_nobody_waits() -> None:
    timeline = run([(0, 9), (1, 8), (2, 7), (3, 5), (6, 0), (9, 0), (20, 0)], 20)
    steady = timeline.steady_part()
    assert steady is not None
    assert (steady.seconds, steady.num_steps) == (4.0, 2)
    assert (steady.tokens_per_second, steady.prompt_tokens_per_second) == (2.5, 5.0)
    assert steady.period_seconds == 2.0
    assert [step.sequence for step in steady.steps] == [3, 4]
    assert [step.sequence for step in timeline.take_records()] == list(range(7))


@pytest.mark.parametrize(
    "steps",
    [
        [(0, 0), (3, 0), (10, 0)],  # room for all
        [(0, 5), (0, 0), (10, 0)],  # all admitted before any was done
        [(1, 5), (2, 4)],  # it never ended
    ],
)
def test_no_steady_part(steps: list[tuple[int, int]]) -> None:
    assert run(steps, 10).steady_part() is None


def test_it_is_part_of_the_json() -> None:
    steady = run([(1, 5), (2, 0)], 10).steady_part()
    assert msgspec.json.decode(msgspec.json.encode(steady))["num_generated_tokens"] == 5
