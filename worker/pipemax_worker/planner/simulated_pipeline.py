"""An ``Executor`` without processes: the real engine drives it, time is arithmetic.

A message's times on every stage follow from those of the messages before it, so they are computed
when it is submitted; ``collect`` moves the clock to the end of the next message at the last stage
and hands over what all stages say by then. Reports of the stages before the last one come with it,
not earlier: nothing but the last report of a copy matters to the driver.

What is modelled: compute by a ``StepCost``, the hop of hidden states and of fed-back tokens, links
(``simulated_links``), stalls and bubbles. What is not: the driver's own time, which running ahead
hides, and contention of copies with kernels (measured: below 1 %).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from pipemax_worker.contract.geometry import KVGeometry
from pipemax_worker.contract.messages import (
    ExecutorEvent,
    SampledToken,
    StageInput,
    StageReport,
    StepOutput,
)
from pipemax_worker.contract.transfers import CopyResult
from pipemax_worker.performance.batch_shape import BatchShape, count_prompt_pairs
from pipemax_worker.performance.step_cost import StepCost, all_stage_seconds
from pipemax_worker.planner.simulated_links import LinkSpeeds
from pipemax_worker.planner.simulated_stage import SimulatedStage, StageTurn
from pipemax_worker.planner.virtual_clock import VirtualClock

SAMPLED_TOKEN_ID = 7
"""What is always sampled: lengths are decided by limits, not by the text."""


class HopSpeed(msgspec.Struct, frozen=True):
    """Of hidden states from one stage to the next."""

    latency_seconds: float
    bytes_per_second: float
    bytes_per_token: int

    def seconds(self, num_tokens: int) -> float:
        return self.latency_seconds + num_tokens * self.bytes_per_token / self.bytes_per_second


class Message(msgspec.Struct, gc=False):
    """One that the last stage has not been collected for."""

    sequence: int
    num_tokens: int
    turns: list[StageTurn]
    sampled: tuple[SampledToken, ...] | None


class SimulatedPipeline:
    """See the module. Owns the clock."""

    def __init__(
        self,
        clock: VirtualClock,
        geometry: KVGeometry,
        cost: StepCost,
        links: LinkSpeeds,
        hop: HopSpeed,
    ) -> None:
        self.stages = [
            SimulatedStage(links, geometry.slot_bytes(stage)) for stage in range(cost.num_stages)
        ]
        self._runs = [stage.run for stage in self.stages]
        self._clock, self._cost, self._hop = clock, cost, hop
        self._messages: deque[Message] = deque()
        self._copies: list[tuple[float, int, tuple[CopyResult, ...]]] = []
        self._last_outputs: dict[int, float] = {}
        self._tokens: dict[int, SampledToken] = {}

    # --- the Executor protocol

    def submit(self, stage_input: StageInput) -> None:
        self._messages.append(self.run(stage_input))

    def collect(self, timeout_seconds: float) -> Sequence[ExecutorEvent]:
        if self._messages:
            return self._deliver(self._messages.popleft())
        if self._copies:
            self._clock.seconds = max(self._clock.seconds, self._copies[0][0])
            return self._idle_reports()
        self._clock.seconds += timeout_seconds
        return ()

    def drain(self) -> None:
        """Nothing to stop."""

    def park(self, timeout_seconds: float) -> None:
        """Nothing is kept."""

    # --- turns without messages (``planner.fast_forward``)

    @property
    def messages(self) -> Sequence[Message]:
        """That the engine waits for, oldest first."""
        return self._messages

    @property
    def has_copies(self) -> bool:
        return bool(self._copies)

    def run(self, stage_input: StageInput) -> Message:
        """This message, now; whoever runs it waits for it."""
        shape = shape_of(stage_input)
        turns = self._run(stage_input, shape, self._clock.seconds)
        self._order_copies(stage_input, turns)
        for request_id in stage_input.finished_ids:
            self._tokens.pop(request_id, None)
        return Message(
            stage_input.sequence, shape.num_tokens, turns, self._sample(stage_input, turns)
        )

    def run_rows(
        self, sequence: int, micro_batch_id: int, shape: BatchShape, *, is_fed_back: bool
    ) -> Message:
        """A message of which only the shape is known, now."""
        arrival = self._fed_back(micro_batch_id) if is_fed_back else 0.0
        turns = self._run_rows(shape, arrival, self._clock.seconds)
        self._last_outputs[micro_batch_id] = turns[-1].end
        return Message(sequence, shape.num_tokens, turns, None)

    def pass_time(self, message: Message) -> None:
        """Until the last stage is through with the oldest message."""
        self._clock.seconds = max(self._clock.seconds, message.turns[-1].end)

    def sample(self, message: Message, stage_input: StageInput) -> None:
        """The rows of a message of ``run_rows``, which will be delivered after all."""
        message.sampled = self._sample(stage_input, message.turns)

    def replace_messages(self, messages: Iterable[Message]) -> None:
        """These are what the engine waits for."""
        self._messages = deque(messages)

    # --- a message's way

    def _run(self, message: StageInput, shape: BatchShape, now: float) -> list[StageTurn]:
        if not message.scheduled:
            return [stage.pass_by(now) for stage in self.stages]
        return self._run_rows(shape, self._feedback(message), now)

    def _run_rows(self, shape: BatchShape, arrival: float, now: float) -> list[StageTurn]:
        hop_seconds = self._hop.seconds(shape.num_tokens)
        turns = []
        seconds = all_stage_seconds(self._cost, shape)
        for run, compute_seconds in zip(self._runs, seconds, strict=True):
            turn = run(now, arrival, compute_seconds)
            turns.append(turn)
            arrival = turn.end + hop_seconds
        return turns

    def _feedback(self, message: StageInput) -> float:
        """When stage 0 has the tokens that the last stage sampled for these rows."""
        for row in message.scheduled:
            if row.token_ids is None:
                return self._fed_back(message.micro_batch_id)
        return 0.0

    def _fed_back(self, micro_batch_id: int) -> float:
        return self._last_outputs.get(micro_batch_id, 0.0) + self._hop.latency_seconds

    def _order_copies(self, message: StageInput, turns: list[StageTurn]) -> None:
        """Loads and background copies begin with the message, stores after its forward."""
        for job in (*message.prefetch, *message.background):
            is_load = job in message.prefetch
            results = [
                stage.copy(job, turn.end - _busy(turn), is_load)
                for stage, turn in zip(self.stages, turns, strict=True)
            ]
            self._await(job.job_id, results)
        for job in message.stores_after:
            results = [
                stage.copy(job, turn.end, False)
                for stage, turn in zip(self.stages, turns, strict=True)
            ]
            self._await(job.job_id, results)

    def _await(self, job_id: int, results: list[tuple[float, CopyResult]]) -> None:
        landed = max(seconds for seconds, _ in results)
        entry = (landed, job_id, tuple(result for _, result in results))
        heapq.heappush(self._copies, entry)

    def _sample(
        self, message: StageInput, turns: list[StageTurn]
    ) -> tuple[SampledToken, ...] | None:
        tokens = self._tokens
        sampled = tuple(
            [
                tokens.get(row.request_id) or self._token(row.request_id)
                for row in message.scheduled
                if row.needs_sample
            ]
        )
        if message.scheduled:
            self._last_outputs[message.micro_batch_id] = turns[-1].end
        return sampled or None

    def _token(self, request_id: int) -> SampledToken:
        token = self._tokens[request_id] = SampledToken(request_id, SAMPLED_TOKEN_ID)
        return token

    # --- what comes back

    def _deliver(self, message: Message) -> list[ExecutorEvent]:
        self._clock.seconds = max(self._clock.seconds, message.turns[-1].end)
        copies = self._landed_copies()
        events: list[ExecutorEvent] = [
            StageReport(
                message.sequence,
                stage,
                message.num_tokens,
                turn.compute_seconds,
                turn.stall_seconds,
                turn.wait_seconds,
                copies[stage] if copies else (),
            )
            for stage, turn in enumerate(message.turns)
        ]
        if message.sampled is not None:
            events.append(StepOutput(message.sequence, message.sampled))
        return events

    def _idle_reports(self) -> list[ExecutorEvent]:
        copies = self._landed_copies()
        return [
            StageReport(-1, stage, 0, 0.0, 0.0, 0.0, copies[stage])
            for stage in range(len(self.stages))
        ]

    def _landed_copies(self) -> list[tuple[CopyResult, ...]]:
        """By stage, of the jobs that have landed everywhere by now; empty if there are none."""
        landed = []
        while self._copies and self._copies[0][0] <= self._clock.seconds:
            landed.append(heapq.heappop(self._copies)[2])
        return list(zip(*landed, strict=True))


def shape_of(message: StageInput) -> BatchShape:
    rows = message.scheduled
    num_tokens = sum([row.num_new_tokens for row in rows])
    num_kv_tokens = num_tokens + sum([row.num_computed_tokens for row in rows])
    num_pairs = 0
    if num_tokens > len(rows):
        num_pairs = sum(
            [count_prompt_pairs(row.num_computed_tokens, row.num_new_tokens) for row in rows]
        )
    return BatchShape(num_tokens, num_kv_tokens, len(rows), num_pairs)


def _busy(turn: StageTurn) -> float:
    """Seconds from the stage's taking up the message to its end."""
    return turn.stall_seconds + turn.wait_seconds + turn.compute_seconds
