"""How fast a benchmark runs while there is more work than room, apart from its start and end."""

from __future__ import annotations

import msgspec

from pipemax_worker.contract.clock import Clock
from pipemax_worker.contract.statistics import StepRecord
from pipemax_worker.engine.engine import Engine

FIRST_FINISHED_SHARE = 0.1
"""The steady part begins when so many of the requests are finished: by then requests of all ages
are in flight."""

SAMPLE_SECONDS = 0.01


class Sample(msgspec.Struct, frozen=True):
    """A look at a running engine."""

    seconds: float
    num_prompt_tokens: int
    num_generated_tokens: int
    num_steps: int


class SteadyPart(msgspec.Struct, frozen=True):
    """From the first tenth's end until no request waits to be admitted.

    prompt tokens are those computed, generated ones those sampled, in this part.
    steps   of this part, as far as all stages had reported them.
    """

    seconds: float
    num_prompt_tokens: int
    num_generated_tokens: int
    num_steps: int
    steps: tuple[StepRecord, ...]

    @property
    def tokens_per_second(self) -> float:
        return self.num_generated_tokens / self.seconds

    @property
    def prompt_tokens_per_second(self) -> float:
        return self.num_prompt_tokens / self.seconds

    @property
    def period_seconds(self) -> float:
        """Time from one message to the next, whatever it was spent on."""
        return self.seconds / max(1, self.num_steps)


class Timeline:
    """Watches an engine through one run; the runner tells it of every step."""

    def __init__(self, engine: Engine, clock: Clock, num_requests: int) -> None:
        self._engine, self._clock = engine, clock
        self._num_first = max(1, round(FIRST_FINISHED_SHARE * num_requests))
        self._begin: Sample | None = None
        self._end: Sample | None = None
        self._before: list[StepRecord] = []
        self._steady: list[StepRecord] = []

    def note_step(self, num_finished: int) -> None:
        """After each step of the engine."""
        is_full = self._engine.num_waiting > 0
        if self._begin is None and num_finished >= self._num_first and is_full:
            self._before = self._engine.take_step_records()
            self._begin = self._sample()
        elif self._begin is not None and self._end is None and not is_full:
            self._steady = self._engine.take_step_records()
            self._end = self._sample()

    def take_records(self) -> list[StepRecord]:
        """All steps of the run, at its end."""
        return [*self._before, *self._steady, *self._engine.take_step_records()]

    def steady_part(self) -> SteadyPart | None:
        """None if there was none: never more work than room, or only for a moment."""
        if self._begin is None or self._end is None:
            return None
        begin, end = self._begin, self._end
        if end.num_steps == begin.num_steps or end.seconds <= begin.seconds:
            return None
        return SteadyPart(
            end.seconds - begin.seconds,
            end.num_prompt_tokens - begin.num_prompt_tokens,
            end.num_generated_tokens - begin.num_generated_tokens,
            end.num_steps - begin.num_steps,
            tuple(self._steady),
        )

    def _sample(self) -> Sample:
        statistics = self._engine.statistics
        return Sample(
            self._clock.now(),
            statistics.num_prompt_tokens,
            statistics.num_generated_tokens,
            statistics.num_steps,
        )
