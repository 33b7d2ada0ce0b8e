"""A run that is stopped or killed: nothing is lost, nothing is done twice."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from kit.jobs import JobFolder, text_lines
from kit.processes import RunningJob
from pipemax_worker.runner.job_run import JobRun

NUM_FILES = 10
LINES_PER_FILE = 12
IN_THE_MIDDLE = 2 * 40 * 5 + 30
"""Tokens: of two answers at a time, of 40 tokens each."""
SLOW = {"engine.maxNumRequests": 2, "engine.lookAhead": 16}
"""Two requests at a time: there is time to break into it. Not part of what the text depends on."""


@pytest.fixture
def long_job(job: JobFolder) -> JobFolder:
    """120 requests in ten files, each of which is a range."""
    for number in range(NUM_FILES):
        lines = text_lines(LINES_PER_FILE, f"{number}-")
        job.write_input([*lines[:-1], b"no json"], f"{number}.jsonl")
    job.write(SLOW | {"sampling": {"temperature": 0, "maxTokens": 40}})
    return job


def complete(job: JobFolder) -> None:
    """Run it again, faster; then every line has exactly one record."""
    job.write({"sampling": {"temperature": 0, "maxTokens": 40}})
    assert job.run("--quiet") == 0
    keys = [(r["pipemax"]["file"], r["pipemax"]["offset"]) for r in job.records()]
    assert len(keys) == len(set(keys)) == NUM_FILES * LINES_PER_FILE
    failed = [record for record in job.records() if record["error"]]
    assert len(failed) == NUM_FILES
    assert (job.output / "manifest.json").exists()


def has_loaded_torch(process_id: int) -> bool:
    return "libtorch" in Path(f"/proc/{process_id}/maps").read_text()


def test_sigterm_writes_what_is_done_and_the_next_run_goes_on(long_job: JobFolder) -> None:
    nvme = {"hostPath": str(long_job.folder / "nvme"), "size": "1Mi"}
    long_job.write(
        SLOW
        | {
            "sampling": {"temperature": 0, "maxTokens": 40},
            "kvCache.nvme": nvme,
            "parallelism.stagesPerNode": 2,
        }
    )
    # In the middle of two answers: else there is nothing to park.
    with RunningJob(long_job, hold="tokens", at=IN_THE_MIDDLE) as run:
        progress = run.wait_for_tokens(IN_THE_MIDDLE)
        assert progress["phase"] == "Running"
        assert 0 < progress["fractionDone"] < 1
        metrics = run.get("metrics").decode()
        assert "pipemax_kv_swap_bytes_total{" in metrics
        assert run.get("healthz") == b"ok\n"
        assert len(run.stage_ids()) == 2
        assert all(has_loaded_torch(stage) for stage in run.stage_ids())
        assert not has_loaded_torch(run.driver_id), "not even by a library, not even late"
        run.process.send_signal(signal.SIGTERM)
        assert run.end() == 75
        assert "stopped by SIGTERM" in run.said[-1]
        run.wait_until_gone()
    assert 10 <= len(long_job.records()) < NUM_FILES * LINES_PER_FILE
    (parked,) = (long_job.folder / "nvme").iterdir()
    assert (parked / "park.json").exists()
    complete(long_job)


def test_sigkill_leaves_no_stage_and_the_next_run_goes_on(long_job: JobFolder) -> None:
    with RunningJob(long_job, hold="requests", at=3 * LINES_PER_FILE) as run:
        run.wait_for_requests(3 * LINES_PER_FILE)
        assert len(run.stage_ids()) == 1
        run.process.kill()
        assert run.end() == -signal.SIGKILL
        run.wait_until_gone()
    assert LINES_PER_FILE <= len(long_job.records()) < NUM_FILES * LINES_PER_FILE
    complete(long_job)


def test_ctrl_c_while_the_stages_start(long_job: JobFolder) -> None:
    """The terminal sends SIGINT to the stages too; they leave it to the driver."""
    with RunningJob(long_job, hold="loading") as run:
        assert run.progress()["phase"] == "Starting"
        for process_id in run.process_ids():
            os.kill(process_id, signal.SIGINT)
        assert run.end() == 75
        run.wait_until_gone()
    assert not (long_job.output / "ledger").exists()


def test_the_deadline_keeps_what_is_done(
    long_job: JobFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that stands still until some requests are done."""
    monkeypatch.setattr(
        JobRun, "_elapsed_seconds", lambda run: 1.5 if run._counts.num_records >= 5 else 0.0
    )
    long_job.write(SLOW | {"deadline": 1, "sampling": {"temperature": 0, "maxTokens": 40}})
    assert long_job.run("--quiet") == 75
    assert "spec.deadline: 1 s have passed" in capsys.readouterr().err
    assert 0 < len(long_job.records()) < NUM_FILES * LINES_PER_FILE
    complete(long_job)
