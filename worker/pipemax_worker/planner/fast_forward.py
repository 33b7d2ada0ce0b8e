"""Turns of a simulation without their messages: exactly the same, and faster.

Where ``engine.lockstep`` takes the turns, this takes the place of ``Engine.step``: they go through
the simulated stages by the same arithmetic in the same order, so every time and every counter is
the same float as without it (``SimulationSettings.fast_forward`` False). What is left out is
building messages, reading them again and giving each row its token.
"""

from __future__ import annotations

from collections import Counter, deque

from pipemax_worker.contract.request import FinishedRequest
from pipemax_worker.engine.engine import Engine
from pipemax_worker.engine.lockstep import Lockstep
from pipemax_worker.engine.lockstep_group import Turn
from pipemax_worker.performance.correction import CorrectedEstimator
from pipemax_worker.planner.simulated_pipeline import SAMPLED_TOKEN_ID, Message, SimulatedPipeline
from pipemax_worker.planner.simulated_stage import StageTurn

_MAX_UNWRITTEN = 64
"""Messages whose times are kept: few, so that they are gone before the collector looks."""


class FastForward:
    """Of one simulation, in place of its engine where that is possible.

    num_turns   that were taken without the engine.
    """

    def __init__(
        self, engine: Engine, pipeline: SimulatedPipeline, estimator: CorrectedEstimator
    ) -> None:
        self._engine = engine
        self._pipeline = pipeline
        self._estimator = estimator
        self._max_in_flight = engine.scheduler.config.max_in_flight
        self._lockstep: Lockstep | None = None
        self._in_flight: deque[tuple[Turn, Message]] = deque()
        self._delivered: list[list[StageTurn]] = []
        self._num_steps: Counter[int] = Counter()
        self.num_turns = 0

    def step(self) -> list[FinishedRequest]:
        """Turns until a request has finished or was admitted; else a step of the engine."""
        lockstep = self._lockstep or self._begin()
        scheduler = self._engine.scheduler
        num_waiting = scheduler.num_waiting
        if lockstep is not None:
            lockstep.note_requests()
        while lockstep is not None:
            self._fill(lockstep)
            if not self._in_flight:
                self.end()
                break
            self._deliver(lockstep)
            finished = scheduler.take_finished()
            if finished or scheduler.num_waiting != num_waiting:
                return finished
        return self._engine.step()

    def _begin(self) -> Lockstep | None:
        engine = self._engine
        if engine.executor is not self._pipeline or self._pipeline.has_copies:
            return None
        if not self._estimator.is_prior_exact:
            return None
        lockstep = engine.scheduler.begin_lockstep(engine.in_flight, SAMPLED_TOKEN_ID)
        if lockstep is not None:
            messages = self._pipeline.messages
            self._in_flight.extend(zip(lockstep.in_flight, messages, strict=True))
            self._lockstep = lockstep
        return lockstep

    def _fill(self, lockstep: Lockstep) -> None:
        """The pipeline, as far as there are turns."""
        while len(self._in_flight) < self._max_in_flight:
            turn = lockstep.schedule(self._engine.clock.now())
            if turn is None:
                return
            if turn.stage_input is not None:
                message = self._pipeline.run(turn.stage_input)
            else:
                message = self._pipeline.run_rows(
                    turn.sequence, turn.micro_batch_id, turn.shape, is_fed_back=turn.is_fed_back
                )
                self.num_turns += 1
            self._in_flight.append((turn, message))

    def _deliver(self, lockstep: Lockstep) -> None:
        turn, message = self._in_flight.popleft()
        self._pipeline.pass_time(message)
        lockstep.deliver(turn)
        self._num_steps[message.num_tokens] += 1
        self._delivered.append(message.turns)
        if len(self._delivered) == _MAX_UNWRITTEN:
            self._write_times()

    # --- for who looks at the engine

    def write(self) -> None:
        """Bring the engine's statistics in step."""
        if self._lockstep is not None:
            self._lockstep.write()
            self._write_times()
            for num_tokens, num_steps in self._num_steps.items():
                self._estimator.confirm_all(num_tokens, num_steps)
            self._num_steps.clear()

    def _write_times(self) -> None:
        self._engine.scheduler.note_times(self._delivered)
        self._delivered.clear()

    def end(self) -> None:
        """The engine goes on as if it had done all this."""
        lockstep = self._lockstep
        if lockstep is None:
            return
        self.write()
        plans = lockstep.end(turn for turn, _ in self._in_flight)
        messages = [message for _, message in self._in_flight]
        for plan, message in zip(plans, messages, strict=True):
            self._pipeline.sample(message, plan.stage_input)
        last_reported = self._engine.scheduler.next_sequence - 1 - len(plans)
        self._engine.replace_in_flight(plans, last_reported=last_reported)
        self._pipeline.replace_messages(messages)
        self._in_flight.clear()
        self._lockstep = None
