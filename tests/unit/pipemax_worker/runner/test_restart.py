"""A pipeline is started again once it has died, but not for ever."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from kit.fake_run import FakeEngine
from kit.progress import GEOMETRY
from pipemax_worker.errors import (
    GpuLostError,
    KVTierError,
    PipemaxError,
    StageDiedError,
    StoppedError,
)
from pipemax_worker.runner.restart import RestartablePipeline
from pipemax_worker.runner.session import Session


class Pipelines:
    """Opens one at a time; the next ones fail with ``failures``."""

    def __init__(self) -> None:
        self.failures: list[PipemaxError] = []
        self.num_opened = 0
        self.num_open = 0
        self.said: list[str] = []

    @contextlib.contextmanager
    def open(self) -> Iterator[Session]:
        if self.failures:
            raise self.failures.pop(0)
        self.num_opened += 1
        self.num_open += 1
        assert self.num_open == 1
        try:
            yield Session(FakeEngine(), GEOMETRY, ())  # type: ignore[arg-type]
        finally:
            self.num_open -= 1


def test_it_is_closed_and_opened_again() -> None:
    pipelines = Pipelines()
    with RestartablePipeline(pipelines.open, pipelines.said.append) as pipeline:
        first = pipeline.session
        pipeline.restart()
        assert pipeline.session is not first
        pipeline.close()
        assert not pipeline.is_open
        assert pipelines.num_open == 0
        pipeline.restart()
        assert pipeline.is_open
        assert (pipeline.num_restarts, pipelines.num_opened) == (2, 3)
    assert pipelines.num_open == 0


def test_a_start_that_dies_of_a_lost_gpu_is_not_tried_again() -> None:
    pipelines = Pipelines()
    pipelines.failures = [StageDiedError("one")]
    pipeline = RestartablePipeline(pipelines.open, pipelines.said.append)
    pipeline.explain = lambda error, _=None: GpuLostError(f"GPU-a is lost ({error})")
    with pytest.raises(GpuLostError, match=r"GPU-a is lost \(one\)"):
        pipeline.__enter__()
    assert (pipelines.num_opened, pipelines.said) == (0, [])


def test_a_start_may_die_once() -> None:
    pipelines = Pipelines()
    pipelines.failures = [StageDiedError("one"), StageDiedError("two")]
    with pytest.raises(StageDiedError, match="two"):
        RestartablePipeline(pipelines.open, pipelines.said.append).__enter__()
    pipelines.failures = [StageDiedError("one")]
    with RestartablePipeline(pipelines.open, pipelines.said.append) as pipeline:
        assert pipeline.is_open
        assert pipeline.num_restarts == 1


def test_a_restart_may_die_once() -> None:
    pipelines = Pipelines()
    with RestartablePipeline(pipelines.open, pipelines.said.append) as pipeline:
        pipelines.failures = [StageDiedError("it is still hot")]
        pipeline.restart()
        assert pipeline.num_restarts == 2
        assert "it is still hot; the pipeline died while it started" in pipelines.said[0]
        pipelines.failures = [StageDiedError("one"), StageDiedError("two")]
        with pytest.raises(StageDiedError, match="two"):
            pipeline.restart()
        assert not pipeline.is_open


def test_what_cannot_heal_is_raised_at_once() -> None:
    pipelines = Pipelines()
    with RestartablePipeline(pipelines.open, pipelines.said.append) as pipeline:
        pipelines.failures = [KVTierError("the disk is full")]
        with pytest.raises(KVTierError):
            pipeline.restart()
        assert pipeline.num_restarts == 1


def test_a_stop_interrupts_a_restart() -> None:
    @contextlib.contextmanager
    def stopped() -> Iterator[None]:
        raise StoppedError("stopped by SIGTERM")
        yield

    pipelines = Pipelines()
    with RestartablePipeline(pipelines.open, pipelines.said.append, stopped) as pipeline:
        with pytest.raises(StoppedError):
            pipeline.restart()
        assert pipelines.num_open == 0
