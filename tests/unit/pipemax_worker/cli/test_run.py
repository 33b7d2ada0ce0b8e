"""`pipemax run`: options reach the run, the summary goes to stdout, progress to stderr."""

import sys
from pathlib import Path

import pytest
from kit.fake_run import FakeSessions
from kit.jobs import JobFolder, text_lines
from pipemax_worker.cli import run as run_command
from pipemax_worker.cli.main import main
from pipemax_worker.errors import StageDiedError
from pipemax_worker.runner.options import RunOptions


def test_summary_and_progress(
    job: JobFolder, sessions: FakeSessions, capsys: pytest.CaptureFixture[str]
) -> None:
    job.write_input(text_lines(3))
    job.write()
    assert job.run() == 0
    said = capsys.readouterr()
    assert said.out.startswith("reviews: Complete\n")
    assert "stages: 1" in said.err
    assert job.run() == 0
    assert "nothing to do" in capsys.readouterr().out


def test_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given: list[tuple[Path, RunOptions]] = []

    def run_job(job_file: Path, options: RunOptions, stream: object) -> str:
        assert stream is sys.stderr
        given.append((job_file, options))
        return "done"

    monkeypatch.setattr(run_command, "run_job", run_job)
    assert main(["run", "job.yaml"]) == 0
    arguments = ["--mount", "a=/x", "--mount", "b=/y=z", "--port", "0", "--address", "0.0.0.0"]
    assert main(["run", "job.yaml", *arguments, "--quiet"]) == 0
    assert given == [
        (Path("job.yaml"), RunOptions()),
        (Path("job.yaml"), RunOptions({"a": "/x", "b": "/y=z"}, 0, "0.0.0.0", True)),
    ]
    assert capsys.readouterr().out == "done\ndone\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--mount", "data"], "expected CLAIM=PATH"),
        (["--mount", "=/data"], "expected CLAIM=PATH"),
        (["--mount", "data="], "expected CLAIM=PATH"),
        (["--port", "70000"], "from 0 to 65535"),
        (["--port", "-1"], "from 0 to 65535"),
        (["--port", "http"], "from 0 to 65535"),
    ],
)
def test_options_with_a_fault(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "job.yaml", *arguments])
    assert ended.value.code == 2
    assert named in capsys.readouterr().err


def test_a_stage_that_dies(
    job: JobFolder, sessions: FakeSessions, capsys: pytest.CaptureFixture[str]
) -> None:
    job.write_input(text_lines(8))
    job.write()
    sessions.engine.failure, sessions.engine.fails_after = StageDiedError("stage 0 was killed"), 1
    assert job.run() == 69
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.endswith("pipemax: stage 0 was killed\n")
    assert len(job.records()) == 4


def test_nobody_reads_the_progress(job: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 0 says that every request has a record; this is a stop."""

    def run_job(*_: object) -> str:
        raise BrokenPipeError

    monkeypatch.setattr(run_command, "run_job", run_job)
    assert job.run() == 75
