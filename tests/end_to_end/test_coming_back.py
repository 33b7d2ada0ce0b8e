"""The same command again, a changed job, a retry, another place: with real stages."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from kit.jobs import JobFolder, answer_text, error_code, text_line, text_lines
from kit.processes import RunningJob
from kit.runnable_model import write_model
from pipemax_worker.dataset.local_store import LocalStore
from pipemax_worker.dataset.manifest import Manifest, read_manifest

TIGHT = {"engine.blockTokens": 16, "engine.deviceKvCache": "64Ki"}
"""Requests of 200 tokens cannot fit. The text of the others does not depend on it."""

NUM_LONG = 6


@pytest.fixture
def finished(job: JobFolder) -> JobFolder:
    """24 requests, of which 6 need more KV than there is; and a line that is no JSON."""
    long = [text_line(f"long-{number}", max_tokens=200) for number in range(NUM_LONG)]
    job.write_input([*text_lines(9, "a"), *long[:3], b"no json"], "a.jsonl")
    job.write_input([*long[3:], *text_lines(9, "b")], "b.jsonl")
    job.write(TIGHT)
    assert job.run("--quiet") == 0
    return job


def manifest_of(folder: Path) -> Manifest:
    manifest = read_manifest(LocalStore(folder))
    assert manifest is not None
    return manifest


def texts_of(job: JobFolder) -> dict[str, str]:
    return {
        name: answer_text(record) for name, record in job.by_id().items() if not record["error"]
    }


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_job_is_left_alone(
    finished: JobFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(finished.output)
    with RunningJob(finished) as again:
        assert again.end() == 0
        assert again.said == [], "no stage was started"
    assert files_of(finished.output) == before
    assert finished.run() == 0
    assert "every request already has a record; nothing to do; 7 failed" in capsys.readouterr().out


@pytest.fixture
def own_model(tmp_path: Path) -> JobFolder:
    model = write_model(tmp_path / "model")
    job = JobFolder(tmp_path, model)
    job.write_input(text_lines(3))
    job.write()
    assert job.run("--quiet") == 0
    return job


def change_config(job: JobFolder) -> None:
    path = job.model_folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rope_theta": 5000.0}))


def grow_weights(job: JobFolder) -> None:
    (weights,) = job.model_folder.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes() + b" ")


def change_input(job: JobFolder) -> None:
    job.write_input(text_lines(4))


def add_input(job: JobFolder) -> None:
    job.write_input(text_lines(1, "x"), "more.jsonl")


def change_parameter(job: JobFolder) -> None:
    job.write({"sampling": {"temperature": 0.5, "maxTokens": 8}})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_config, r'model.files.config.json: was "'),
        (grow_weights, "model.weights.model.safetensors: was "),
        (change_input, "input in.jsonl.size_bytes: was "),
        (add_input, "input more.jsonl: was not set, is {"),
        (change_parameter, "parameters.sampling.temperature: was 0.0, is 0.5"),
    ],
)
def test_a_changed_job_refuses_the_old_ledger_and_says_what_changed(
    own_model: JobFolder, change: Any, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(own_model.output)
    change(own_model)
    for arguments in ([], ["--retry-failed"]):
        assert own_model.run("--quiet", *arguments) == 78
        message = capsys.readouterr().err
        assert "this output belongs to another job; changed since 20" in message
        assert named in message
        assert ", is " in message, "the new value beside the old one"
    assert files_of(own_model.output) == before
    own_model.write({"output.uri": "new", "resumeFrom": "out"} | _kept(own_model))
    assert own_model.run("--quiet") == 78
    assert named in capsys.readouterr().err, "nor does another place take over its records"


def _kept(job: JobFolder) -> dict[str, Any]:
    """What the test has changed in the job file."""
    return {"sampling": {"temperature": 0.5, "maxTokens": 8}} if "0.5" in _yaml(job) else {}


def _yaml(job: JobFolder) -> str:
    return job.job_file.read_text(encoding="utf-8")


def test_requests_that_did_not_fit_are_run_again_with_more_memory(finished: JobFolder) -> None:
    before = texts_of(finished)
    failed = {name for name, record in finished.by_id().items() if record["error"]}
    assert len(failed) == NUM_LONG + 1
    finished.write()
    assert finished.run("--quiet", "--retry-failed") == 0
    after = finished.by_id()
    assert len(after) == 25
    assert {name for name, record in after.items() if record["error"]} == {None}
    assert texts_of(finished).items() >= before.items()
    manifest = manifest_of(finished.output)
    assert (manifest.num_retries, manifest.counts.failed) == (1, 1)
    assert manifest.failed_codes == {"invalid_json": 1}


def test_another_place_takes_over_what_succeeded(finished: JobFolder) -> None:
    before = texts_of(finished)
    finished.write({"output.uri": "second", "resumeFrom": "out"})
    assert finished.run("--quiet") == 0
    manifest = manifest_of(finished.folder / "second")
    assert (manifest.num_copied, manifest.resumed_from) == (18, (str(finished.output),))
    shutil.rmtree(finished.output)
    shutil.move(finished.folder / "second", finished.output)
    assert len(finished.by_id()) == 25
    assert texts_of(finished).items() > before.items()
    assert {error_code(one) for one in finished.records()} == {None, "invalid_json"}


@pytest.mark.parametrize("arguments", [[], ["--retry-failed"]])
def test_a_retry_that_is_killed_goes_on(job: JobFolder, arguments: list[str]) -> None:
    """Of 60 requests 30 are run again, and the driver dies among them."""
    lines = [text_line(f"{number}", max_tokens=200 if number % 2 else 4) for number in range(60)]
    for number in range(6):
        job.write_input(lines[10 * number : 10 * number + 10], f"{number}.jsonl")
    job.write(TIGHT)
    assert job.run("--quiet") == 0
    first = texts_of(job)
    assert len(first) == 30
    job.write({"engine.maxNumRequests": 2, "engine.lookAhead": 8})
    with RunningJob(job, "--retry-failed", hold="requests", at=40) as run:
        run.wait_for_requests(40)
        run.process.kill()
        assert run.end() == -signal.SIGKILL
        run.wait_until_gone()
    assert not (job.output / "manifest.json").exists()
    assert job.run("--quiet", *arguments) == 0
    texts = texts_of(job)
    assert len(texts) == len(job.records()) == 60
    assert texts.items() >= first.items()
    assert manifest_of(job.output).num_retries == 1
    assert not b"".join(path.read_bytes() for path in (job.output / "errors").iterdir())
