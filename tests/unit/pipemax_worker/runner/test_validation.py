"""`validate` finds what `run` would, and starts nothing."""

import shutil
from typing import Any

import pytest
from kit.batch_lines import line_of
from kit.jobs import JobFolder, text_line, text_lines
from pipemax_worker.errors import (
    InputNotFoundError,
    JobFileError,
    KVTierError,
    LedgerMismatchError,
    ModelNotFoundError,
    OutputError,
    PipemaxError,
    UnsupportedModelError,
)
from pipemax_worker.runner.line_checker import MAX_FAULTS_SHOWN
from pipemax_worker.runner.validation import ValidationReport, validate_job


def validate(
    job: JobFolder, changes: dict[str, Any] | None = None, check_lines: bool = False
) -> ValidationReport:
    return validate_job(job.write(changes), {}, check_places=True, check_lines=check_lines)


def test_a_good_job(job: JobFolder) -> None:
    job.write_input(text_lines(3))
    report = validate(job)
    text = "\n".join(report.lines)
    assert "InferenceJob reviews is valid" in text
    assert "LlamaForCausalLM, 4 layers, context 256 tokens" in text
    assert "1 file, " in text
    assert f"{job.output}: writable" in text
    assert "KV blocks of 16 tokens: device" in text
    assert report.exit_code == 0
    assert not (job.output / "ledger").exists(), "the output is not bound to the job"


def test_the_file_alone(job: JobFolder) -> None:
    job_file = job.write({"model.uri": "/elsewhere", "input.uri": "pvc://data/in"})
    report = validate_job(job_file, {}, check_places=False, check_lines=False)
    assert report.lines == (f"{job_file}: InferenceJob reviews is valid",)


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"engine.device": "tpu"}, JobFileError, r"spec\.engine\.device"),
        ({"model.uri": "/nowhere"}, ModelNotFoundError, "/nowhere"),
        ({"input.uri": "gone.jsonl"}, InputNotFoundError, r"gone\.jsonl"),
        ({"output.uri": "in.jsonl/out"}, OutputError, "a file stands where a folder is needed"),
        ({"parallelism.stagesPerNode": 9}, UnsupportedModelError, "at most 4 stages"),
        ({"engine.deviceKvCache": 1}, KVTierError, "the device tier holds no block"),
    ],
)
def test_what_run_would_refuse(
    job: JobFolder, changes: dict[str, Any], error: type[PipemaxError], named: str
) -> None:
    job.write_input(text_lines(3))
    with pytest.raises(error, match=named):
        validate(job, changes)


def test_a_missing_shard(job: JobFolder) -> None:
    folder = job.folder / "model"
    shutil.copytree(job.model_folder, folder)
    (folder / "model.safetensors").unlink()
    job.write_input(text_lines(3))
    with pytest.raises(ModelNotFoundError, match=r"model\.safetensors"):
        validate(JobFolder(job.folder, folder))


def test_an_output_of_another_job(job: JobFolder) -> None:
    job.write_input(text_lines(3))
    (job.output / "results").mkdir(parents=True)
    (job.output / "results" / "00000000-000000.jsonl").touch()
    with pytest.raises(LedgerMismatchError):
        validate(job)


def test_every_line_on_request(job: JobFolder) -> None:
    job.write_input(text_lines(3), "a.jsonl")
    job.write_input(
        [text_line("b"), b"no json", text_line("r1"), line_of({"prompt": 3}, custom_id="c")],
        "b.jsonl",
    )
    report = validate(job, check_lines=True)
    assert report.lines[-1] == (
        "  requests  7 lines, 3 faulty: 1 x invalid_json, 1 x invalid_type, 1 x duplicate_custom_id"
    )
    places = [fault.split(": ")[:2] for fault in report.faults]
    assert places == [
        ["b.jsonl:2", "invalid_json"],
        ["b.jsonl:3", "duplicate_custom_id"],
        ["b.jsonl:4", "invalid_type"],
    ]
    assert report.faults[1].endswith("custom_id 'r1' is also that of a.jsonl:2"), (
        "repeats are found over all files"
    )
    assert report.exit_code == 65


def test_a_request_whose_kv_cannot_fit(job: JobFolder) -> None:
    job.write_input([text_line("a", max_tokens=200), text_line("b", max_tokens=2)])
    report = validate(job, {"engine.deviceKvCache": "64Ki"}, check_lines=True)
    assert len(report.faults) == 1
    assert report.faults[0].startswith("in.jsonl:1: kv_cache_exceeded: ")


def test_good_lines(job: JobFolder) -> None:
    job.write_input(text_lines(3))
    nvme = {"kvCache.nvme": {"emptyDir": {}, "size": "1Mi"}}
    report = validate(job, nvme, check_lines=True)
    assert report.lines[-1] == "  requests  3 lines, 0 faulty"
    assert "nvme" in report.lines[-2]
    assert report.exit_code == 0


def test_only_the_first_faults_are_shown(job: JobFolder) -> None:
    job.write_input([b"no json"] * (MAX_FAULTS_SHOWN + 7))
    report = validate(job, check_lines=True)
    assert len(report.faults) == MAX_FAULTS_SHOWN + 1
    assert report.faults[-1] == "... and 7 more"
