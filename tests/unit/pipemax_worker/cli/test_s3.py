"""Every command with input and output in buckets."""

from __future__ import annotations

import gzip
import json

import pytest
from kit.fake_run import FakeSessions
from kit.jobs import JobFolder, text_lines
from kit.s3_server import S3Server
from pipemax_worker.cli.main import main
from pipemax_worker.dataset.manifest import read_manifest
from pipemax_worker.dataset.s3_store import open_s3


@pytest.fixture
def s3_job(job: JobFolder, s3_bucket: str, s3_server: S3Server) -> JobFolder:
    """Twelve lines in two objects, one of them compressed; the output under a prefix beside."""
    store = open_s3(s3_bucket, s3_server.environment)
    lines = [*text_lines(12), b"no json"]
    store.put("in/a.jsonl", b"".join(line + b"\n" for line in lines[:8]))
    store.put("in/b.jsonl.gz", gzip.compress(b"\n".join(lines[8:])))
    job.write({"input.uri": f"{s3_bucket}/in/*.jsonl*", "output.uri": f"{s3_bucket}/out"})
    return job


def test_run_status_results_and_validate(
    s3_job: JobFolder,
    sessions: FakeSessions,
    s3_bucket: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job_file = str(s3_job.job_file)
    assert main(["validate", job_file]) == 0
    assert f"output    {s3_bucket}/out: writable" in capsys.readouterr().out
    assert main(["validate", job_file, "--input"]) == 65
    assert "b.jsonl.gz:5: invalid_json" in capsys.readouterr().err
    assert main(["status", job_file]) == 66

    assert main(["run", job_file]) == 0
    assert f"results   {s3_bucket}/out" in capsys.readouterr().out
    assert main(["run", job_file]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert len(sessions.settings) == 1

    assert main(["status", job_file, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["output"] == f"{s3_bucket}/out"
    assert (status["finished"], status["requests"]["done"]) == (True, 13)
    assert main(["results", job_file]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["custom_id"] for record in records[:12]] == [f"r{n}" for n in range(12)]
    assert records[12]["error"]["code"] == "invalid_json"
    assert records[12]["pipemax"]["file"] == "b.jsonl.gz"
    manifest = read_manifest(open_s3(f"{s3_bucket}/out"))
    assert manifest is not None
    assert [file.name for file in manifest.inputs] == ["a.jsonl", "b.jsonl.gz"]
    assert not s3_job.output.exists()


def test_a_changed_object_is_another_job(
    s3_job: JobFolder,
    sessions: FakeSessions,
    s3_bucket: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert s3_job.run("--quiet") == 0
    store = open_s3(s3_bucket)
    store.put("in/a.jsonl", store.get("in/a.jsonl").replace(b"Hello", b"HELLO"))
    assert s3_job.run() == 78
    assert "input a.jsonl.content_hash: was" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "exit_code", "said"),
    [
        ("AWS_SECRET_ACCESS_KEY", "", 74, "AWS_SECRET_ACCESS_KEY is missing"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", 74, "http://127.0.0.1:9: tried"),
        ("PIPEMAX_CREDENTIALS_FOLDER", "/nowhere", 74, "/nowhere: the credentials cannot be read"),
    ],
)
def test_a_store_that_cannot_be_used_is_named_before_anything_starts(
    s3_job: JobFolder,
    sessions: FakeSessions,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    exit_code: int,
    said: str,
) -> None:
    monkeypatch.setenv("PIPEMAX_STORE_RETRY_SECONDS", "0.1")
    monkeypatch.setenv(name, value)
    assert s3_job.run() == exit_code
    assert said in capsys.readouterr().err
    assert sessions.settings == []
