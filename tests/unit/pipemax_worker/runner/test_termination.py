"""The container's termination message."""

import json
from pathlib import Path

import pytest
from pipemax_worker.dataset.records import RecordCounts
from pipemax_worker.runner.termination import (
    TERMINATION_LOG_VARIABLE,
    write_completion,
    write_termination_message,
)


def test_the_message_names_reason_and_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv(TERMINATION_LOG_VARIABLE, str(log))
    write_termination_message("StageDied", "stage 1 was killed by signal 9", 69)
    assert json.loads(log.read_text()) == {
        "reason": "StageDied",
        "message": "stage 1 was killed by signal 9",
        "exitCode": 69,
    }


def test_a_long_message_fits_into_what_kubernetes_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv(TERMINATION_LOG_VARIABLE, str(log))
    write_termination_message("InvalidJobFile", "ü" * 10_000, 78)
    assert log.stat().st_size <= 4096
    assert json.loads(log.read_text())["message"].startswith("üü")


def test_without_the_variable_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TERMINATION_LOG_VARIABLE, raising=False)
    write_termination_message("Stopped", "stopped", 75)


def test_a_log_that_cannot_be_written_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TERMINATION_LOG_VARIABLE, str(tmp_path / "nowhere" / "log"))
    write_termination_message("Stopped", "stopped", 75)
    assert not list(tmp_path.iterdir())


def test_a_finished_job_leaves_its_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv(TERMINATION_LOG_VARIABLE, str(log))
    write_completion(RecordCounts(completed=7, failed=1, prompt_tokens=70, completion_tokens=35))
    said = json.loads(log.read_text())
    assert (said["reason"], said["exitCode"]) == ("CompletedWithErrors", 0)
    assert said["counts"] == {
        "completed": 7,
        "failed": 1,
        "promptTokens": 70,
        "generatedTokens": 35,
    }
