"""`pipemax results`: records in the order of the input, answers alone, failures alone."""

import json

import pytest
from kit.fake_run import FakeSessions
from kit.jobs import JobFolder, chat_line, text_line, text_lines
from pipemax_worker.cli.main import main


@pytest.fixture
def done(job: JobFolder, sessions: FakeSessions, capsys: pytest.CaptureFixture[str]) -> JobFolder:
    """Twelve records, written in another order than that of the input."""
    job.write_input([*text_lines(9), b"no json", chat_line("chat"), text_line("many", n=2)])
    sessions.engine.reverse = True
    job.write()
    assert job.run("--quiet") == 0
    capsys.readouterr()
    return job


def output_of(job: JobFolder, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["results", str(job.job_file), *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_job_that_never_started(job: JobFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", str(job.write())]) == 66
    assert "no job was started here" in capsys.readouterr().err


def test_records_in_the_order_of_the_input(
    done: JobFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [json.loads(line) for line in output_of(done, capsys)]
    ids = [record["custom_id"] for record in records]
    assert ids == [*(f"r{index}" for index in range(9)), None, "chat", "many"]
    written = {json.dumps(record, sort_keys=True) for record in done.records()}
    assert {json.dumps(record, sort_keys=True) for record in records} == written


def test_as_written(done: JobFolder, capsys: pytest.CaptureFixture[str]) -> None:
    unordered = output_of(done, capsys, "--unordered")
    assert sorted(unordered) == sorted(output_of(done, capsys))


def test_failures_alone(done: JobFolder, capsys: pytest.CaptureFixture[str]) -> None:
    (record,) = (json.loads(line) for line in output_of(done, capsys, "--failed"))
    assert record["error"]["code"] == "invalid_json"


def test_answers_alone(done: JobFolder, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split("\t") for line in output_of(done, capsys, "--text")]
    assert len(lines) == 12
    texts = {custom_id: text for custom_id, text in lines}
    assert texts["-"].startswith('"error invalid_json: in.jsonl, line 10: ')
    answer = json.loads(texts["r0"])
    assert answer
    assert json.loads(texts["chat"]) == json.loads(texts["many"]) == answer


def test_failed_answers_alone(done: JobFolder, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = output_of(done, capsys, "--failed", "--text")
    assert line.startswith("-\t")
