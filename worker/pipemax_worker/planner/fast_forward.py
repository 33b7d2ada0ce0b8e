"""Unchanged decode steps of a simulation, without their messages: exactly the same, and faster.

While ``engine.lockstep`` knows what the next turns are, this takes the place of ``Engine.step``:
the turns go through the simulated stages by the same arithmetic in the same order, so every time
and every counter is the same float as without it (``SimulationSettings.fast_forward`` False). What
is left out is building messages, reading them again and giving each row its token.
"""

from __future__ import annotations

from collections import Counter, deque

from pipemax_worker.engine.engine import Engine
from pipemax_worker.engine.lockstep import Lockstep
from pipemax_worker.engine.message import Plan
from pipemax_worker.performance.batch_shape import BatchShape
from pipemax_worker.performance.correction import CorrectedEstimator
from pipemax_worker.planner.simulated_pipeline import SAMPLED_TOKEN_ID, Message, SimulatedPipeline

_NUM_REST_STEPS = 4
_MAX_REST_STEPS = 16
"""Of the engine, between attempts: doubled with each that finds nothing to skip, since it costs
about as much as a step, and where somebody ends each turn there never is anything."""

_MIN_TURNS = 3
"""Of each micro-batch, to be worth beginning."""


class _Turn:
    """A message in flight: one of the engine's, or one that was never built."""

    __slots__ = ("message", "micro_batch_id", "number", "plan", "shape")

    def __init__(
        self, message: Message, micro_batch_id: int, shape: BatchShape, plan: Plan | None = None
    ) -> None:
        self.message = message
        self.micro_batch_id = micro_batch_id
        self.shape = shape
        self.plan = plan
        self.number = 0


class FastForward:
    """Of one simulation. Between two steps of its engine."""

    def __init__(
        self, engine: Engine, pipeline: SimulatedPipeline, estimator: CorrectedEstimator
    ) -> None:
        self._engine = engine
        self._pipeline = pipeline
        self._estimator = estimator
        self._max_in_flight = engine.scheduler.config.max_in_flight
        self._num_rest_steps = 0
        self._next_rest_steps = _NUM_REST_STEPS
        self.num_turns = 0

    def run(self) -> None:
        """Skip what can be skipped; the engine goes on as if it had done it."""
        if self._num_rest_steps:
            self._num_rest_steps -= 1
            return
        lockstep = self._begin()
        if lockstep is None:
            self._rest()
            return
        turns = deque(
            _Turn(message, plan.stage_input.micro_batch_id, plan.shape, plan)
            for plan, message in zip(self._engine.in_flight, self._pipeline.messages, strict=True)
        )
        first_sequence = lockstep.next_sequence
        delivered = self._take_turns(lockstep, turns)
        if delivered or lockstep.next_sequence > first_sequence:
            self._end(lockstep, turns, delivered)
            self._next_rest_steps = _NUM_REST_STEPS
        else:
            self._rest()

    def _rest(self) -> None:
        self._num_rest_steps = self._next_rest_steps
        self._next_rest_steps = min(_MAX_REST_STEPS, 2 * self._next_rest_steps)

    def _begin(self) -> Lockstep | None:
        engine = self._engine
        plans = engine.in_flight
        if not plans or engine.executor is not self._pipeline or self._pipeline.has_copies:
            return None
        if not self._estimator.is_prior_exact or any(plan.num_prefill_tokens for plan in plans):
            return None
        return engine.scheduler.begin_lockstep(plans, _MIN_TURNS)

    def _take_turns(self, lockstep: Lockstep, turns: deque[_Turn]) -> list[_Turn]:
        delivered: list[_Turn] = []
        while True:
            while len(turns) < self._max_in_flight:
                micro_batch_id = lockstep.schedule()
                if micro_batch_id is None:
                    break
                turns.append(self._submit(lockstep, micro_batch_id))
            if lockstep.is_over or not turns or not lockstep.deliver(turns[0].micro_batch_id):
                return delivered
            turn = turns.popleft()
            self._pipeline.pass_time(turn.message)
            delivered.append(turn)

    def _submit(self, lockstep: Lockstep, micro_batch_id: int) -> _Turn:
        group = lockstep.groups[micro_batch_id]
        is_fed_back = group is not None and group.num_in_flight > 1
        shape = lockstep.shape(micro_batch_id)
        message = self._pipeline.run_rows(
            lockstep.next_sequence - 1, micro_batch_id, shape, is_fed_back=is_fed_back
        )
        turn = _Turn(message, micro_batch_id, shape)
        turn.number = group.num_scheduled - 1 if group is not None else 0
        return turn

    def _end(self, lockstep: Lockstep, turns: deque[_Turn], delivered: list[_Turn]) -> None:
        plans = []
        for turn in turns:
            plan = turn.plan
            if plan is None:
                sequence = turn.message.sequence
                plan = lockstep.plan(sequence, turn.micro_batch_id, turn.shape, turn.number)
                self._pipeline.sample(turn.message, plan.stage_input)
            plans.append(plan)
        steps = Counter(turn.shape.num_tokens for turn in delivered)
        for num_tokens, num_steps in steps.items():
            self._estimator.confirm_all(num_tokens, num_steps)
        self._engine.scheduler.end_lockstep(
            lockstep, len(plans), [turn.message.turns for turn in delivered], SAMPLED_TOKEN_ID
        )
        num_left = len(turns)
        self._engine.replace_in_flight(plans, last_reported=lockstep.next_sequence - 1 - num_left)
        self._pipeline.replace_messages([turn.message for turn in turns])
        self.num_turns += len(delivered)
