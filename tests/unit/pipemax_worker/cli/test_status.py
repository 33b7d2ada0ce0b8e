"""`pipemax status`: from the output location alone, whatever became of the run."""

import json
import re

import pytest
from kit.fake_run import FakeSessions
from kit.jobs import JobFolder, text_lines
from pipemax_worker.cli.main import main
from pipemax_worker.errors import StageDiedError


def test_a_job_that_never_started(job: JobFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(job.write())]) == 66
    assert "no job was started here" in capsys.readouterr().err


def test_a_finished_job(
    job: JobFolder, sessions: FakeSessions, capsys: pytest.CaptureFixture[str]
) -> None:
    job.write_input([*text_lines(5), b"no json"])
    job.write()
    job.run("--quiet")
    capsys.readouterr()
    assert main(["status", str(job.job_file)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("reviews: finished, started 20")
    assert "6 have a record: 5 succeeded, 1 failed" in text
    assert "1 of 1 done" in text
    assert re.search(r"tokens +\d+ prompt, 15 generated", text)
    assert str(job.output) in text


def test_a_job_that_died_half_way(
    job: JobFolder, sessions: FakeSessions, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        job.write_input(text_lines(4), f"{number}.jsonl")
    sessions.engine.failure, sessions.engine.fails_after = StageDiedError("died"), 2
    job.write({"engine.lookAhead": 4})
    assert job.run("--quiet") == 69
    capsys.readouterr()
    assert main(["status", str(job.job_file)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("reviews: not finished")
    assert re.search(r"8 of about \d+ have a record", text)


def test_json(job: JobFolder, sessions: FakeSessions, capsys: pytest.CaptureFixture[str]) -> None:
    path = job.write_input([*text_lines(5), b"no json"])
    job.write()
    job.run("--quiet")
    capsys.readouterr()
    assert main(["status", "--json", str(job.job_file)]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["job"], status["output"]) == ("reviews", str(job.output))
    assert status["finished"] is True
    assert status["requests"] == {"done": 6, "failed": 1, "estimatedTotal": 6}
    assert status["ranges"] == {"total": 1, "done": 1}
    assert status["inputBytes"] == {"total": path.stat().st_size, "done": path.stat().st_size}
    assert status["tokens"]["generated"] == 15
    assert status["createdAt"].startswith("20")
