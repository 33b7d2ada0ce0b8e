"""A pipeline that can be started again, with the same settings, when it has died."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from pipemax_worker.errors import PipemaxError, StageDiedError
from pipemax_worker.runner.session import Session


class Explain(Protocol):
    """What a death of ``stage`` (None: some stage, at a start) really was."""

    def __call__(self, error: PipemaxError, stage: int | None = None, /) -> PipemaxError: ...


MAX_STARTS = 2
"""Attempts at one start: a pipeline that dies twice in a row while it starts does not heal."""

OpenPipeline = Callable[[], contextlib.AbstractContextManager[Session]]
OpenInterrupting = Callable[[], contextlib.AbstractContextManager[None]]


class RestartablePipeline:
    """Opens ``open_pipeline`` when entered, and ends what is open when left.

    A start raises StageDiedError if the pipeline dies ``MAX_STARTS`` times while it starts, and at
    once what cannot heal: KVTierError, ModelNotFoundError, UnsupportedModelError, InvariantError.

    session       the last one that was opened; its engine answers questions after its end.
    num_restarts  how often it was started again.
    interrupting  a restart runs inside it: what ends one early (a stop) is raised in there.
    on_wait       to be called by the one who opens, once a second or so while stages load.
    explain       what a death at a start really was: what is no StageDiedError ends it at once.
    """

    def __init__(
        self,
        open_pipeline: OpenPipeline,
        say: Callable[[str], None],
        interrupting: OpenInterrupting = contextlib.nullcontext,
    ) -> None:
        self._open_pipeline = open_pipeline
        self._say = say
        self._interrupting = interrupting
        self._stack = contextlib.ExitStack()
        self.session: Session
        self.is_open = False
        self.num_restarts = 0
        self.on_wait: Callable[[], None] = lambda: None
        self.explain: Explain = lambda error, _=None: error

    def __enter__(self) -> RestartablePipeline:
        self._open()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End stages and engine; what the engine knows can still be asked for. Idempotent."""
        self.is_open = False
        self._stack.close()

    def restart(self) -> None:
        """Start it again."""
        self.close()
        with self._interrupting():
            self.num_restarts += 1
            self._open()

    def _open(self) -> None:
        for number in range(1, MAX_STARTS + 1):
            try:
                self.session = self._stack.enter_context(self._open_pipeline())
            except StageDiedError as death:
                error = self.explain(death)
                if number == MAX_STARTS or not isinstance(error, StageDiedError):
                    raise error from death
                self._say(f"{error}; the pipeline died while it started, and is started again")
                self.num_restarts += 1
            else:
                self.is_open = True
                return
