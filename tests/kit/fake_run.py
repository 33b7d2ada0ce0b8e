"""A run without stages: an engine that answers at once, in portions."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from io import StringIO

import msgspec
from kit.progress import GEOMETRY
from pipemax_worker.contract.geometry import KVGeometry
from pipemax_worker.contract.messages import StageReady
from pipemax_worker.contract.request import (
    FinishedRequest,
    FinishReason,
    Request,
    RequestProgress,
    StopChecker,
)
from pipemax_worker.contract.statistics import EngineStatistics, StepRecord
from pipemax_worker.errors import PipemaxError, RequestError
from pipemax_worker.runner.session import Session
from pipemax_worker.runner.sizing import SessionSettings
from pipemax_worker.runner.write_budget import WriteBudget
from pipemax_worker.telemetry.display import PlainDisplay
from pipemax_worker.telemetry.progress import ProgressSnapshot


class FakeEngine:
    """Finishes ``per_step`` requests in each step, the newest first if ``reverse``.

    answer       token ids for every request, cut to its max_tokens.
    fails_after  steps until ``failure`` is raised.
    on_step      called in every step with the number of steps so far.
    """

    def __init__(
        self,
        per_step: int = 4,
        reverse: bool = False,
        fails_after: int | None = None,
        failure: BaseException | None = None,
        max_tokens: int = 1000,
    ) -> None:
        self.per_step = per_step
        self.reverse = reverse
        self.fails_after = fails_after
        self.failure = failure
        self.max_tokens = max_tokens
        self.deaths: list[object] = []  # it never tells who was suspect: a failure ends the run
        self.answer = (40, 41, 42)
        self.waiting: deque[Request] = deque()
        self.seen: list[Request] = []
        self.num_steps = 0
        self.most_waiting = 0
        self.on_step: Callable[[int], None] = lambda _: None

    def check_request(self, request: Request) -> None:
        if len(request.prompt_token_ids) + request.sampling.max_tokens > self.max_tokens:
            raise RequestError("kv_cache_exceeded", "needs too many blocks", "body.max_tokens")

    def add_request(
        self,
        request: Request,
        stop_checker: StopChecker | None = None,
        progress: RequestProgress | None = None,
    ) -> None:
        self.waiting.append(request)
        self.seen.append(request)
        self.most_waiting = max(self.most_waiting, len(self.waiting))

    def step(self) -> list[FinishedRequest]:
        self.on_step(self.num_steps)
        if self.failure is not None and self.num_steps == self.fails_after:
            raise self.failure
        self.num_steps += 1
        take = self.waiting.pop if self.reverse else self.waiting.popleft
        return [finish(take(), self.answer) for _ in range(min(self.per_step, len(self.waiting)))]

    @property
    def has_unfinished_requests(self) -> bool:
        return bool(self.waiting)

    @property
    def num_waiting(self) -> int:
        return len(self.waiting)

    @property
    def statistics(self) -> EngineStatistics:
        return EngineStatistics(num_steps=self.num_steps, num_generated_tokens=3 * self.num_steps)

    @property
    def num_restarts(self) -> int:
        return 0

    def take_step_records(self) -> list[StepRecord]:
        return [StepRecord(self.num_steps, 4, 2, 0.001)]


def finish(
    request: Request,
    token_ids: tuple[int, ...] = (40, 41, 42),
    reason: FinishReason = FinishReason.LENGTH,
    error_code: str | None = None,
) -> FinishedRequest:
    return FinishedRequest(
        key=request.key,
        choice=request.choice,
        token_ids=token_ids[: request.sampling.max_tokens],
        finish_reason=reason,
        num_prompt_tokens=len(request.prompt_token_ids),
        error_code=error_code,
        error_message=error_code and "the engine says so",
    )


class FakeSessions:
    """Stands in for ``open_session``; ``opened`` and ``closed`` count, ``failure`` is raised."""

    def __init__(self, engine: FakeEngine | None = None) -> None:
        self.engine = engine or FakeEngine()
        self.failure: PipemaxError | None = None
        self.settings: list[SessionSettings] = []
        self.num_closed = 0
        self.on_open: Callable[[SessionSettings], None] = lambda _: None

    @contextlib.contextmanager
    def __call__(
        self,
        settings: SessionSettings,
        on_ready: Callable[[StageReady], None] | None = None,
        on_wait: Callable[[], None] | None = None,
        write_budget: WriteBudget | None = None,
    ) -> Iterator[Session]:
        self.settings.append(settings)
        self.on_open(settings)
        if self.failure is not None:
            raise self.failure
        if on_ready is not None:
            on_ready(StageReady(0, 0.5, 1 << 20, False))
        try:
            yield Session(self.engine, geometry_for(settings), ())  # type: ignore[arg-type]
        finally:
            self.num_closed += 1


def geometry_for(settings: SessionSettings) -> KVGeometry:
    return msgspec.structs.replace(GEOMETRY, block_tokens=settings.pipeline.block_tokens)


class RecordingDisplay(PlainDisplay):
    """Keeps every snapshot."""

    def __init__(self) -> None:
        super().__init__(StringIO())
        self.snapshots: list[ProgressSnapshot] = []
        self.messages: list[str] = []

    def update(self, snapshot: ProgressSnapshot) -> None:
        self.snapshots.append(snapshot)

    def message(self, text: str) -> None:
        self.messages.append(text)
