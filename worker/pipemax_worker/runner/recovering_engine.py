"""An engine that outlives its pipeline: what dies is started again, and requests go on."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

from pipemax_worker.contract.messages import StageDied
from pipemax_worker.contract.request import (
    FinishedRequest,
    RecordKey,
    Request,
    RequestProgress,
    StopChecker,
)
from pipemax_worker.contract.statistics import EngineStatistics, StepRecord
from pipemax_worker.engine.engine import Engine
from pipemax_worker.errors import GpuLostError, PipemaxError, StageDiedError
from pipemax_worker.runner.held_request import HeldRequest, without_kv
from pipemax_worker.runner.recovery import Trial, after_death, after_finish, after_survival
from pipemax_worker.runner.recovery_messages import (
    describe_condemned,
    describe_death,
    describe_hopeless,
)
from pipemax_worker.runner.restart import RestartablePipeline
from pipemax_worker.runner.total_statistics import add_statistics

Explain = Callable[[PipemaxError, StageDied], PipemaxError]
MakeStopChecker = Callable[[RecordKey, int], StopChecker | None]


class RecoveringEngine:
    """Has the face of an engine. ``recovery`` decides who runs after a death; this carries it out.

    Requests are *held* while the pipeline is down, or while others are on trial. Stop checkers are
    made anew for requests that go on (``make_stop_checker``): theirs have seen part of the text.
    ``explain`` says what a death really was; a GPU that is lost ends all, and nobody is suspected.
    """

    def __init__(
        self,
        pipeline: RestartablePipeline,
        make_stop_checker: MakeStopChecker,
        say: Callable[[str], None],
        explain: Explain = lambda error, _: error,
    ) -> None:
        self._pipeline = pipeline
        self._make_stop_checker = make_stop_checker
        self._say = say
        self._explain = explain
        self._trial = Trial()
        self._held: dict[tuple[RecordKey, int], HeldRequest] = {}
        self._accused: dict[RecordKey, list[FinishedRequest]] = {}
        self._num_deaths_of: Counter[RecordKey] = Counter()
        self._past = EngineStatistics()
        self._past_steps: list[StepRecord] = []
        self._failure: PipemaxError | None = None

    # --- requests

    def check_request(self, request: Request) -> None:
        """Raises RequestError if ``request`` can never run in these tiers."""
        self._engine.check_request(request)

    def add_request(
        self,
        request: Request,
        stop_checker: StopChecker | None = None,
        progress: RequestProgress | None = None,
    ) -> None:
        """Queue a request, as ``Engine.add_request`` does."""
        if progress is not None and self._pipeline.num_restarts:
            progress = without_kv(progress)
        if self._pipeline.is_open and not self._trial.is_open:
            self._engine.add_request(request, stop_checker, progress)
        else:
            self._hold([HeldRequest(request, progress)])

    @property
    def has_unfinished_requests(self) -> bool:
        return bool(self._held or self._accused) or self._is_running

    @property
    def num_waiting(self) -> int:
        waiting = self._engine.num_waiting if self._pipeline.is_open else 0
        return len(self._held) + waiting

    def unfinished_requests(self) -> tuple[Request, ...]:
        """Those that have no record coming, accused ones aside."""
        running = self._engine.unfinished_requests() if self._pipeline.is_open else ()
        return (*running, *(held.request for held in self._held.values()))

    def progress(self) -> tuple[RequestProgress, ...]:
        """Of the unfinished requests that have outputs."""
        running = self._engine.progress() if self._pipeline.is_open else ()
        known = (held.progress for held in self._held.values() if held.progress is not None)
        return (*running, *(progress for progress in known if progress.output_token_ids))

    # --- numbers

    @property
    def statistics(self) -> EngineStatistics:
        """Of all pipelines so far; the state is the present one's."""
        present = self._engine.statistics if self._pipeline.is_open else EngineStatistics()
        total = add_statistics(self._past, present)
        return msgspec.structs.replace(total, num_waiting=total.num_waiting + len(self._held))

    @property
    def num_restarts(self) -> int:
        return self._pipeline.num_restarts

    def take_step_records(self) -> list[StepRecord]:
        steps, self._past_steps = self._past_steps, []
        return steps + (self._engine.take_step_records() if self._pipeline.is_open else [])

    # --- the loop

    def step(self) -> list[FinishedRequest]:
        """One step of the engine, in a pipeline that is started again first if it has died.

        Raises what ``Engine.step`` raises for a bug, what ``RestartablePipeline.restart`` raises,
        and GpuLostError or StageDiedError once it is the machine that kills the pipeline: no
        request is condemned then that the machine may have killed.
        """
        if self._failure is not None:
            raise self._failure
        if not self._held and not self._is_running:
            return self._release_accused()  # nobody is left who could speak for them
        if not self._pipeline.is_open:
            self._pipeline.restart()
        self._start_held()
        try:
            finished = self._note_finished(self._engine.step())
        except PipemaxError as error:
            if not self._engine.deaths:
                raise
            finished = self._note_finished(self._engine.take_finished())
            self._take_over(error, self._engine.deaths[0])
        if self._trial.is_open and not self._is_on_trial():
            self._trial = after_survival(self._trial)
        return finished

    @property
    def _engine(self) -> Engine:
        return self._pipeline.session.engine

    @property
    def _is_running(self) -> bool:
        return self._pipeline.is_open and self._engine.has_unfinished_requests

    def _is_on_trial(self) -> bool:
        return self._is_running or any(key in self._trial.running for key, _ in self._held)

    def _start_held(self) -> None:
        running = self._trial.running
        names = [name for name in self._held if not running or name[0] in running]
        for name in names:
            held = self._held.pop(name)
            self._engine.add_request(held.request, self._make_stop_checker(*name), held.progress)

    def _hold(self, requests: Iterable[HeldRequest]) -> None:
        self._held.update((held.name, held) for held in requests)

    def _note_finished(self, finished: list[FinishedRequest]) -> list[FinishedRequest]:
        if not finished:
            return finished
        self._trial = after_finish(self._trial)
        return finished + self._release_accused()

    def _release_accused(self) -> list[FinishedRequest]:
        """What is said of them is true: they get their error records."""
        released = [finished for choices in self._accused.values() for finished in choices]
        self._accused.clear()
        self._trial = after_finish(self._trial)
        return released

    # --- a death

    def _take_over(self, error: PipemaxError, death: StageDied) -> None:
        """Keep all that the dead pipeline's engine knows, and decide who runs next."""
        suspects = tuple(dict.fromkeys(request.key for request in self._engine.suspects()))
        self._keep(self._engine)
        self._pipeline.close()
        error = self._explain(error, death)
        if isinstance(error, GpuLostError):
            self._failure = error
            return
        self._num_deaths_of.update(suspects)
        before, is_from_outside = self._trial, death.exit_code == -signal.SIGKILL
        self._trial = after_death(before, suspects, is_from_outside, self._choose_control())
        for key in self._trial.accused[len(before.accused) :]:
            self._accuse(key, describe_condemned(str(error)))
        if self._trial.is_hopeless:
            self._failure = StageDiedError(describe_hopeless(self._trial, str(error)))
        else:
            self._say(describe_death(self._trial, str(error), len(suspects)))

    def _keep(self, engine: Engine) -> None:
        self._past = add_statistics(self._past, engine.statistics)
        self._past_steps += engine.take_step_records()
        others, self._held = self._held, {}
        known = {(one.key, one.choice): one for one in engine.progress()}
        self._hold(
            HeldRequest(request, known.get((request.key, request.choice)))
            for request in engine.unfinished_requests()
        )
        self._hold(
            HeldRequest(held.request, held.progress and without_kv(held.progress))
            for held in others.values()
        )

    def _choose_control(self) -> RecordKey | None:
        """The line that was suspected least often, and of those the one that ends soonest."""
        others = [held for (key, _), held in self._held.items() if key not in self._trial.running]
        best = min(
            others,
            key=lambda held: (self._num_deaths_of[held.request.key], held.num_remaining_tokens),
            default=None,
        )
        return None if best is None else best.request.key

    def _accuse(self, key: RecordKey, message: str) -> None:
        """Its unfinished choices end, but nobody is told yet: see ``recovery``."""
        names = [name for name in self._held if name[0] == key]
        self._accused[key] = [self._held.pop(name).fail(message) for name in names]
        self._say(f"{key.file}, byte {key.offset}: {message}")
