"""The command line as a whole: help, exit codes, errors, pipes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kit.fake_run import FakeSessions
from kit.jobs import JobFolder, text_lines
from pipemax_worker.cli import main as main_module
from pipemax_worker.cli.main import main
from pipemax_worker.runner.termination import TERMINATION_LOG_VARIABLE

COMMANDS = ("run", "validate", "preflight", "status", "results", "bench")


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_teaches_a_first_run_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys)
    assert "pipemax run manifests/examples/quickstart/job.yaml" in text
    assert "kind: InferenceJob" in text
    for command in COMMANDS:
        assert f"\n    {command} " in text
    for code in (65, 66, 69, 70, 71, 72, 74, 75, 78):
        assert f"{code} " in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, command)
    assert f"usage: pipemax {command}" in text
    undocumented = [
        line for line in text.splitlines() if line.startswith("  --") and len(line.split()) == 1
    ]
    following = dict(zip(text.splitlines(), text.splitlines()[1:], strict=False))
    assert all(following[line].strip() for line in undocumented)


def test_the_example_in_the_help_is_a_job(tmp_path: Path) -> None:
    lines = main_module.DESCRIPTION.split("(docs/inferencejob.md has all fields):\n")[1]
    job_file = tmp_path / "job.yaml"
    job_file.write_text("\n".join(line.removeprefix("    ") for line in lines.splitlines()))
    assert main(["validate", "--schema-only", str(job_file)]) == 0


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run"], ["run", "job.yaml", "--fast"]])
def test_a_command_line_that_says_nothing(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: pipemax" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("pipemax 0.")


@pytest.mark.parametrize("command", ["run", "validate", "status", "results"])
def test_a_job_file_that_is_not_there(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(tmp_path / "job.yaml")]) == 78
    assert "job.yaml: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "validate", "status", "results"])
def test_a_job_file_with_a_fault(
    command: str, job: JobFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    job_file = job.write({"sampling": {"temperature": 3}})
    assert main([command, str(job_file)]) == 78
    expected = r"spec.sampling.temperature: found 3"
    assert expected in capsys.readouterr().err


def test_the_termination_message_says_why(
    tmp_path: Path, job: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "termination-log"
    monkeypatch.setenv(TERMINATION_LOG_VARIABLE, str(log))
    assert main(["run", str(job.write({"input.uri": "gone.jsonl"}))]) == 66
    written = json.loads(log.read_text())
    assert (written["reason"], written["exitCode"]) == ("InputNotFound", 66)
    assert "gone.jsonl" in written["message"]


def test_a_bug_has_its_own_exit_code_and_a_traceback(
    job: JobFolder, sessions: FakeSessions, capsys: pytest.CaptureFixture[str]
) -> None:
    job.write_input(text_lines(3))
    sessions.engine.failure, sessions.engine.fails_after = ZeroDivisionError("planted"), 0
    assert main(["run", str(job.write())]) == 70
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "pipemax: a bug: ZeroDivisionError: planted" in said


def pipemax(*arguments: object, **options: object) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "pipemax_worker.cli.main", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload,no-any-return]


def test_a_reader_that_has_seen_enough(job: JobFolder, sessions: FakeSessions) -> None:
    """`pipemax results job.yaml | head -1`: no complaint, exit code 0."""
    job.write_input(text_lines(1000))
    assert job_is_run(job)
    read_end, write_end = os.pipe()
    with pipemax("results", job.job_file, stdout=write_end) as process:
        os.close(write_end)
        assert os.read(read_end, 10)
        os.close(read_end)
        _, said = process.communicate()
    assert (process.returncode, said) == (0, b"")


def test_nobody_reads_at_all(job: JobFolder, sessions: FakeSessions) -> None:
    job.write_input(text_lines(3))
    assert job_is_run(job)
    for command in ("status", "validate", "results"):
        read_end, write_end = os.pipe()
        os.close(read_end)
        with pipemax(command, job.job_file, stdout=write_end) as process:
            os.close(write_end)
            _, said = process.communicate()
        assert (process.returncode, said) == (0, b""), command


def job_is_run(job: JobFolder) -> bool:
    job.write()
    return job.run("--quiet") == 0
