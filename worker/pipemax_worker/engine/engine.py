"""The one loop: plan, submit, collect, learn."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from pipemax_worker.contract.clock import Clock
from pipemax_worker.contract.messages import (
    Executor,
    ExecutorEvent,
    SampledToken,
    StageDied,
    StageReport,
    StepOutput,
)
from pipemax_worker.contract.request import (
    FinishedRequest,
    Request,
    RequestProgress,
    StopChecker,
)
from pipemax_worker.contract.statistics import EngineStatistics, StepRecord
from pipemax_worker.engine.liveness import Liveness, suspect_messages
from pipemax_worker.engine.message import Plan
from pipemax_worker.engine.parking import ParkedRequest
from pipemax_worker.engine.scheduler import Scheduler
from pipemax_worker.engine.step_records import StepRecorder
from pipemax_worker.errors import InvariantError, PipemaxError, error_from_reason


class Engine:
    """Drives an executor with what the scheduler decides. Owns the messages in flight.

    A message is in flight until the last stage has sampled its tokens, or, where it samples none,
    has reported it. ``timeout_seconds`` bounds how long one ``step`` waits for an event;
    ``step_timeout_seconds`` how long all stages may be silent while something is expected of them.

    deaths  of stages, or of one that hangs: nothing but what is known can be had of this engine
            then (``unfinished_requests``, ``progress``, ``suspects`` and the ``take_*``).
    """

    def __init__(
        self,
        executor: Executor,
        scheduler: Scheduler,
        clock: Clock,
        timeout_seconds: float = 1.0,
        step_timeout_seconds: float | None = None,
    ) -> None:
        self.executor = executor
        self.scheduler = scheduler
        self.clock = clock
        self.timeout_seconds = timeout_seconds
        self.step_timeout_seconds = step_timeout_seconds
        self.in_flight: deque[Plan] = deque()
        self._max_in_flight = scheduler.config.max_in_flight
        self._last_stage = scheduler.config.geometry.num_stages - 1
        self._records = StepRecorder(scheduler.config.geometry.num_stages)
        self._liveness = Liveness(scheduler.config.geometry.num_stages, step_timeout_seconds)
        self.deaths: tuple[StageDied, ...] = ()

    def check_request(self, request: Request) -> None:
        """Raises RequestError if ``request`` can never run in these tiers."""
        self.scheduler.check_request(request)

    def add_request(
        self,
        request: Request,
        stop_checker: StopChecker | None = None,
        progress: RequestProgress | None = None,
    ) -> None:
        """Queue a request; with ``progress`` it goes on where another engine left it, and only the
        outputs that are new are generated. Raises RequestError if it can never run in these tiers.
        """
        self.scheduler.add_request(request, stop_checker, progress)

    def step(self) -> list[FinishedRequest]:
        """Fill the pipeline, wait for what comes back, return the requests that finished.

        Raises StageDiedError, or what the stage named as its reason, if a stage is gone or hangs,
        and InvariantError for a bug.
        """
        while len(self.in_flight) < self._max_in_flight and (
            plan := self.scheduler.schedule(self.clock.now())
        ):
            self._submit(plan)
        self._learn(self._wait_seconds())
        return self.scheduler.take_finished()

    def adopt(self, parked: Iterable[RequestProgress]) -> None:
        """Before the first request: KV that an earlier run has left in the NVMe tier. Requests that
        are added with this progress go on from it; release the KV of those that do not come."""
        self.scheduler.parking.adopt(parked)

    def settle(self, until: float) -> bool:
        """Schedule nothing more and let what is in flight come back; whether all of it has, by
        ``until`` on the engine's clock. ``take_finished`` has what finished by it."""
        if (plan := self.scheduler.schedule_copies()) is not None:
            self._submit(plan)
        while self.in_flight or self.scheduler.has_pending_copies:
            if (seconds_left := until - self.clock.now()) <= 0:
                return False
            self._learn(min(self.timeout_seconds, seconds_left))
        return True

    def succeed(self, scheduler: Scheduler, until: float) -> Engine:
        """An engine that drives the same stages by another scheduler; this one is of no use then.

        Raises InvariantError if there are unfinished requests, or if not all has come back by
        ``until`` on the engine's clock, and otherwise as ``step``.
        """
        is_settled = self.settle(until)
        while self._records.num_open and self.clock.now() < until:
            self._learn(self.timeout_seconds)
        if self.has_unfinished_requests or not is_settled or self._records.num_open:
            raise InvariantError("an engine ends only when all its requests have")
        scheduler.continue_from(self.scheduler)
        timeouts = (self.timeout_seconds, self.step_timeout_seconds)
        return Engine(self.executor, scheduler, self.clock, *timeouts)

    def park(self, until: float) -> tuple[ParkedRequest, ...]:
        """After ``settle``: move the KV of unfinished requests to NVME, as far as ``until`` allows.

        Returns those that have KV there or outputs. The engine is of no use after it. Raises as
        ``step``.
        """
        parking = self.scheduler.parking
        parking.start()
        while not parking.is_done and (seconds_left := until - self.clock.now()) > 0:
            while len(self.in_flight) < self._max_in_flight and (
                plan := self.scheduler.schedule_parking(seconds_left)
            ):
                self._submit(plan)
            self._learn(min(self.timeout_seconds, seconds_left))
        return parking.parked()

    def replace_in_flight(self, plans: Sequence[Plan], last_reported: int) -> None:
        """For simulations that skip messages: ``plans`` are in flight now, and all stages have
        reported everything up to the message ``last_reported``."""
        self.in_flight = deque(plans)
        self._records.replace(plans)
        self._liveness.note_all_reported(last_reported)

    def _submit(self, plan: Plan) -> None:
        self.executor.submit(plan.stage_input)
        self.in_flight.append(plan)
        self._records.start(plan)

    def _learn(self, timeout_seconds: float) -> None:
        events = self._collect(timeout_seconds)
        for event in events:
            self._dispatch(event)
        self._raise_deaths(events)

    def take_finished(self) -> list[FinishedRequest]:
        """Requests that finished in a ``step`` that raised."""
        return self.scheduler.take_finished()

    def suspects(self) -> tuple[Request, ...]:
        """Unfinished requests with a row in a message that a dead stage may have been at."""
        if not self.deaths:
            return ()
        plans = self._records.unreported(suspect_messages(self.deaths))
        return self.scheduler.unfinished_requests_of(plans)

    @property
    def has_unfinished_requests(self) -> bool:
        return self.scheduler.has_unfinished_requests

    @property
    def num_waiting(self) -> int:
        return self.scheduler.num_waiting

    @property
    def num_running(self) -> int:
        return self.scheduler.num_running

    @property
    def statistics(self) -> EngineStatistics:
        return self.scheduler.statistics()

    def take_step_records(self) -> list[StepRecord]:
        """Messages that all stages have reported since the last call."""
        return self._records.take()

    def unfinished_requests(self) -> tuple[Request, ...]:
        """In order of arrival: what to run again if a stage died."""
        return self.scheduler.unfinished_requests()

    def progress(self) -> tuple[RequestProgress, ...]:
        """Of the unfinished requests that have outputs, in order of arrival: what need not be
        generated again if a stage died. Names no KV, which is gone with the stages."""
        return self.scheduler.progress()

    def _wait_seconds(self) -> float:
        is_waiting = self.in_flight or self.scheduler.has_pending_copies
        return self.timeout_seconds if is_waiting else 0.0

    def _collect(self, timeout_seconds: float) -> Sequence[ExecutorEvent]:
        start_seconds = self.clock.now()
        events = self.executor.collect(timeout_seconds)
        if events or not timeout_seconds:
            self._liveness.note_events()
        else:
            self._liveness.note_silence(self.clock.now() - start_seconds, timeout_seconds)
        return events

    def _dispatch(self, event: ExecutorEvent) -> None:
        if isinstance(event, StageReport):
            self._update_from_report(event)
        elif isinstance(event, StepOutput):
            self._update_from_output(event)

    def _raise_deaths(self, events: Sequence[ExecutorEvent]) -> None:
        """After all else that has come: the more is known, the less is done again."""
        self.deaths = tuple(event for event in events if isinstance(event, StageDied))
        if not self.deaths and (hang := self._liveness.find_hang()) is not None:
            self.deaths = (hang,)
        if self.deaths:
            raise _stage_died(self.deaths[0])

    def _update_from_report(self, report: StageReport) -> None:
        self._liveness.note_report(report)
        plan = self._records.report(report) if report.num_tokens else None
        self.scheduler.update_from_report(report, plan.shape if plan else None)
        if report.stage == self._last_stage:
            self._complete_silent(report.sequence)

    def _update_from_output(self, output: StepOutput) -> None:
        self._complete_silent(output.sequence - 1)
        if not self.in_flight or self.in_flight[0].sequence != output.sequence:
            if output.sampled:
                raise InvariantError(
                    f"an output came for message {output.sequence}, which is not the oldest in "
                    "flight"
                )
            return  # of a message that samples nothing, completed by its report
        plan = self.in_flight.popleft()
        self._complete(plan, {sampled.request_id: sampled for sampled in output.sampled})

    def _complete_silent(self, sequence: int) -> None:
        """The last stage is past ``sequence``: messages up to it that sample nothing are over."""
        while self.in_flight:
            plan = self.in_flight[0]
            if plan.sequence > sequence or plan.expects_output:
                return
            self._complete(self.in_flight.popleft(), {})

    def _complete(self, plan: Plan, sampled: dict[int, SampledToken]) -> None:
        self.scheduler.update_from_output(plan, sampled)


def _stage_died(event: StageDied) -> PipemaxError:
    message = event.message or (
        f"stage {event.stage} ended with exit code {event.exit_code}; the last message it finished "
        f"was {event.last_sequence}. See its log above"
    )
    return error_from_reason(event.reason, message)
