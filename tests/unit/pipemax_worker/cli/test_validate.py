"""`pipemax validate`: findings to stdout, faults to stderr, the exit code tells."""

import pytest
from kit.jobs import JobFolder, text_lines
from pipemax_worker.cli.main import main


def test_a_good_job(job: JobFolder, capsys: pytest.CaptureFixture[str]) -> None:
    job.write_input(text_lines(3))
    assert main(["validate", str(job.write())]) == 0
    said = capsys.readouterr()
    assert "InferenceJob reviews is valid" in said.out
    assert "requests" not in said.out, "lines are only read on request"
    assert said.err == ""


def test_faulty_lines(job: JobFolder, capsys: pytest.CaptureFixture[str]) -> None:
    job.write_input([*text_lines(3), b"no json"])
    assert main(["validate", "--input", str(job.write())]) == 65
    said = capsys.readouterr()
    assert "4 lines, 1 faulty" in said.out
    assert said.err.startswith("in.jsonl:4: invalid_json: ")


def test_the_file_alone(job: JobFolder, capsys: pytest.CaptureFixture[str]) -> None:
    job_file = str(job.write({"model.uri": "/elsewhere"}))
    assert main(["validate", "--schema-only", job_file]) == 0
    assert main(["validate", job_file]) == 66
    assert "/elsewhere" in capsys.readouterr().err


def test_a_claim_that_is_mounted(job: JobFolder) -> None:
    job.write_input(text_lines(3))
    job_file = str(job.write({"input.uri": "pvc://data/in.jsonl"}))
    assert main(["validate", job_file]) == 78
    assert main(["validate", "--mount", f"data={job.folder}", job_file]) == 0
