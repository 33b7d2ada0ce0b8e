"""A session: the engine's sizes follow the settings; its stages end with it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from kit.jobs import JobFolder
from kit.pipeline_driver import make_settings
from pipemax_worker.contract.clock import MonotonicClock
from pipemax_worker.contract.messages import ExecutorEvent, StageInput, StageReady
from pipemax_worker.contract.model_config import load_model_config
from pipemax_worker.contract.request import RecordKey, Request, SamplingParams
from pipemax_worker.errors import RequestError, StageDiedError
from pipemax_worker.job.load import load_job
from pipemax_worker.pipeline.settings import build_geometry
from pipemax_worker.runner import session as session_module
from pipemax_worker.runner.session import build_scheduler, open_session
from pipemax_worker.runner.sizing import SessionSettings, derive_session_settings


def make_session_settings(num_stages: int = 2) -> SessionSettings:
    return SessionSettings(
        pipeline=make_settings(num_stages),
        num_micro_batches=3,
        policy="fused",
        prefix_sharing=False,
        max_num_running=7,
        run_ahead=True,
        growth_reserve_ratio=0.5,
    )


class FakeExecutor:
    """Has stages that get ready, or fail to."""

    failure: Exception | None = None

    def __init__(self, configs: tuple[object, ...]) -> None:
        self.configs = configs
        self.num_drains = 0
        made.append(self)

    def start(self, on_ready: object, on_wait: object) -> tuple[StageReady, ...]:
        if self.failure is not None:
            raise self.failure
        return tuple(StageReady(stage, 0.1, 10, False) for stage in range(len(self.configs)))

    def submit(self, stage_input: StageInput) -> None:
        raise AssertionError("nothing was asked for")

    def collect(self, timeout_seconds: float) -> list[ExecutorEvent]:
        return []

    def drain(self) -> None:
        self.num_drains += 1


made: list[FakeExecutor] = []


@pytest.fixture(autouse=True)
def _fake_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    made.clear()
    monkeypatch.setattr(session_module, "PipelineExecutor", FakeExecutor)


def test_the_scheduler_has_the_settings_sizes() -> None:
    settings = make_session_settings()
    geometry = build_geometry(settings.pipeline)
    config = build_scheduler(settings, geometry).config
    assert config.geometry == geometry
    assert (config.num_micro_batches, config.max_num_running) == (3, 7)
    assert config.max_batched_tokens == settings.pipeline.max_batched_tokens
    assert config.max_num_requests == settings.pipeline.max_num_requests
    assert (config.prefix_sharing, config.run_ahead) == (False, True)
    assert config.growth_reserve_ratio == 0.5


def test_the_scheduler_knows_what_can_never_fit() -> None:
    settings = make_session_settings()
    geometry = msgspec.structs.replace(
        build_geometry(settings.pipeline), num_device_slots=2, num_host_slots=2
    )
    scheduler = build_scheduler(settings, geometry)
    fits = SamplingParams(max_tokens=2 * geometry.block_tokens - 2)
    key = RecordKey("a", 0)
    scheduler.check_request(Request(key, 0, (1, 2, 3), fits))
    too_long = msgspec.structs.replace(fits, max_tokens=fits.max_tokens + 1)
    with pytest.raises(RequestError, match="3 blocks of 4 tokens"):
        scheduler.check_request(Request(key, 0, (1, 2, 3), too_long))


def test_a_session_has_an_engine_and_ends_its_stages() -> None:
    with open_session(make_session_settings()) as session:
        assert len(session.stages) == session.geometry.num_stages == 2
        assert session.engine.step() == []
        assert isinstance(session.engine.clock, MonotonicClock)
        assert made[0].num_drains == 0
    assert made[0].num_drains == 1


def test_stages_end_whatever_happens_inside() -> None:
    with pytest.raises(ZeroDivisionError), open_session(make_session_settings()):
        raise ZeroDivisionError
    assert made[0].num_drains == 1


def test_stages_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeExecutor, "failure", StageDiedError("no GPU"))
    with pytest.raises(StageDiedError, match="no GPU"), open_session(make_session_settings()):
        pytest.fail("entered")
    assert made[0].num_drains >= 1


def test_the_settings_of_a_job_make_a_session(job: JobFolder, tmp_path: Path) -> None:
    """Every combination that a job can ask for reaches the engine without a fault of its own."""
    config = load_model_config(job.model_folder)
    for changes in ({}, {"parallelism.stagesPerNode": 4}, {"kvCache.host": 0}):
        spec = load_job(job.write(changes)).spec
        settings = derive_session_settings(spec, config, tmp_path, None, 0)
        with open_session(settings) as session:
            assert session.geometry.num_device_slots > 0
