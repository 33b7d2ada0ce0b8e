"""`run_job` from the job file to the summary, with stages that are not there."""

import os
import shutil
import signal
from io import StringIO
from typing import Any

import pytest
from kit.fake_run import FakeSessions
from kit.jobs import JobFolder, text_line, text_lines
from pipemax_worker.errors import (
    JobFileError,
    KVTierError,
    LedgerMismatchError,
    ModelNotFoundError,
    OutputError,
    StageDiedError,
    StoppedError,
    TooManyFailuresError,
)
from pipemax_worker.runner import run as run_module
from pipemax_worker.runner.options import RunOptions
from pipemax_worker.runner.run import run_job
from pipemax_worker.runner.sizing import SessionSettings


def run(job: JobFolder, changes: dict[str, Any] | None = None, **options: Any) -> tuple[str, str]:
    """The summary, and what was said before it."""
    stream = StringIO()
    summary = run_job(job.write(changes), RunOptions(**options), stream)
    return summary, stream.getvalue()


def test_a_whole_job(job: JobFolder, sessions: FakeSessions) -> None:
    job.write_input([*text_lines(10), b"no json"])
    summary, said = run(job)
    assert summary.startswith("reviews: CompletedWithErrors\n  requests  10 succeeded, 1 failed")
    assert f"results   {job.output}" in summary
    assert len(job.records()) == 11
    assert (job.output / "manifest.json").exists()
    assert "stage 0: 1.0 MiB of weights" in said
    assert "KV blocks of 16 tokens" in said
    assert sessions.num_closed == 1


def test_quiet_says_nothing_before_the_summary(job: JobFolder, sessions: FakeSessions) -> None:
    job.write_input(text_lines(3))
    assert run(job, quiet=True)[1] == ""


def test_a_finished_job_starts_nothing(job: JobFolder, sessions: FakeSessions) -> None:
    job.write_input(text_lines(3))
    run(job)
    before = {path: path.read_bytes() for path in job.output.rglob("*") if path.is_file()}
    (job.output / "manifest.json").unlink()
    summary, _ = run(job)
    assert "every request already has a record; nothing to do" in summary
    assert len(sessions.settings) == 1
    after = {path: path.read_bytes() for path in job.output.rglob("*") if path.is_file()}
    assert after.keys() == before.keys(), "a manifest that is missing is written again"


def test_a_finished_job_still_exceeds_its_error_policy(
    job: JobFolder, sessions: FakeSessions
) -> None:
    job.write_input([b"no json", *text_lines(3)])
    strict = {"errorPolicy": {"maxFailedCount": 0}}
    for _ in range(2):
        with pytest.raises(TooManyFailuresError, match="1 requests failed"):
            run(job, strict)
    assert len(sessions.settings) == 1
    assert "nothing to do" in run(job, {"errorPolicy": {"maxFailedCount": 1}})[0]


def test_a_changed_parameter_is_refused_before_anything_starts(
    job: JobFolder, sessions: FakeSessions
) -> None:
    job.write_input(text_lines(3))
    run(job)
    with pytest.raises(LedgerMismatchError, match="maxTokens: was 8, is 9"):
        run(job, {"sampling": {"temperature": 0, "maxTokens": 9}})
    assert len(sessions.settings) == 1


@pytest.mark.parametrize(
    "failure",
    [ModelNotFoundError("a shard is cut off"), KVTierError("no room"), StageDiedError("")],
)
def test_an_output_is_not_bound_to_a_job_that_could_not_start(
    job: JobFolder, sessions: FakeSessions, failure: Any
) -> None:
    """Else repairing the model's folder would be a change that the ledger refuses."""
    folder = job.folder / "model"
    shutil.copytree(job.model_folder, folder)
    own = JobFolder(job.folder, folder)
    own.write_input(text_lines(3))
    sessions.failure = failure
    with pytest.raises(type(failure)):
        run(own)
    assert not (own.output / "ledger").exists()
    (folder / "model.safetensors").write_bytes(b"repaired")
    sessions.failure = None
    run(own)
    assert len(own.records()) == 3


def test_an_incomplete_model_starts_nothing(job: JobFolder, sessions: FakeSessions) -> None:
    folder = job.folder / "model"
    shutil.copytree(job.model_folder, folder)
    (folder / "model.safetensors").unlink()
    own = JobFolder(job.folder, folder)
    own.write_input(text_lines(3))
    with pytest.raises(ModelNotFoundError):
        run(own)
    assert not sessions.settings
    assert not own.output.exists()


def test_a_suspended_job_does_not_run(job: JobFolder, sessions: FakeSessions) -> None:
    job.write_input(text_lines(3))
    with pytest.raises(StoppedError, match=r"job\.yaml: spec\.suspend is true"):
        run(job, {"suspend": True})
    assert not sessions.settings


def test_an_output_that_cannot_be_written(job: JobFolder, sessions: FakeSessions) -> None:
    job.write_input(text_lines(3))
    (job.folder / "file").touch()
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        run(job, {"output.uri": "file/out"})
    assert not sessions.settings


def test_a_stop_while_the_stages_load(job: JobFolder, sessions: FakeSessions) -> None:
    job.write_input(text_lines(3))

    def stop_me(_: SessionSettings) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("went on loading")

    sessions.on_open = stop_me
    nvme = {"kvCache.nvme": {"hostPath": str(job.folder / "nvme"), "size": "1Mi"}}
    with pytest.raises(StoppedError, match="SIGTERM"):
        run(job, nvme)
    assert not list((job.folder / "nvme").iterdir())
    sessions.on_open = lambda _: None
    run(job, nvme)
    assert len(job.records()) == 3


def test_the_nvme_folder_is_there_for_the_stages_and_gone_with_them(
    job: JobFolder, sessions: FakeSessions
) -> None:
    job.write_input(text_lines(3))
    seen = []

    def look(settings: SessionSettings) -> None:
        assert settings.pipeline.nvme_folder is not None
        assert settings.pipeline.nvme_folder.is_dir()
        seen.append(settings.pipeline.nvme_folder)

    sessions.on_open = look
    run(job, {"kvCache.nvme": {"hostPath": str(job.folder / "nvme"), "size": "1Mi"}})
    assert seen[0].parent == job.folder / "nvme"
    assert not seen[0].exists()


def test_a_port_that_cannot_be_had_is_found_before_the_stages_start(
    job: JobFolder, sessions: FakeSessions
) -> None:
    job.write_input(text_lines(3))
    with pytest.raises(JobFileError, match="--port 0"):
        run(job, port=0, address="192.0.2.1")
    assert not sessions.settings


def test_a_range_that_another_run_took_over_and_gave_up_is_finished(
    job: JobFolder, sessions: FakeSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of one job: the one that lost its range waits, and takes it back when it can."""
    job.write_input(text_lines(8))
    sessions.engine.per_step = 8

    def rival_takes_over(step: int) -> None:
        if step == 0:
            other = FakeSessions()
            other.engine.failure, other.engine.fails_after = RuntimeError("rival died"), 1
            with monkeypatch.context() as patch:
                patch.setattr(run_module, "open_session", other)
                with pytest.raises(RuntimeError, match="rival died"):
                    run(job)

    sessions.engine.on_step = rival_takes_over
    run(job)
    assert len(job.by_id()) == 8
    assert (job.output / "ledger" / "claims" / "00000000-000003").exists()


def test_a_stop_is_heard_in_the_loop(job: JobFolder, sessions: FakeSessions) -> None:
    job.write_input(text_lines(40))
    sessions.engine.on_step = lambda step: (
        os.kill(os.getpid(), signal.SIGINT) if step == 3 else None
    )
    with pytest.raises(StoppedError, match="stopped by SIGINT"):
        run(job)
    assert len(job.records()) == 16
    assert sessions.num_closed == 1
    sessions.engine.on_step = lambda _: None
    sessions.engine.waiting.clear()
    run(job)
    assert len(job.by_id()) == 40


def test_the_deadline_is_the_jobs(job: JobFolder, sessions: FakeSessions) -> None:
    job.write_input([text_line("a")])
    now = iter(range(0, 1_000_000, 3600))
    clock = type("Clock", (), {"now": lambda self: float(next(now))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "MonotonicClock", clock)
        with pytest.raises(StoppedError, match=r"spec\.deadline"):
            run(job, {"deadline": "1h"})
