"""Answers held to schemas, by real stages: valid, and the same whatever happens on the way."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from kit.grammar import Schema, faults
from kit.jobs import JobFolder, answer_text, chat_line, error_code, text_line
from kit.processes import RunningJob

SCHEMAS: dict[str, Schema] = {
    "choice": {"enum": ["positive", "negative", "neither \N{EURO SIGN}"]},
    "person": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "pair": {
        "$defs": {"number": {"type": ["integer", "null"], "minimum": -9, "maximum": 99}},
        "type": "array",
        "prefixItems": [{"$ref": "#/$defs/number"}, {"$ref": "#/$defs/number"}],
        "items": False,
        "minItems": 2,
    },
    "day": {"anyOf": [{"type": "string", "format": "date"}, {"type": "boolean"}]},
}
PARAMETERS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 1.2, "top_k": 5, "ignore_eos": True},
    {"frequency_penalty": 0.5, "logprobs": 1, "min_tokens": 3},
)
SPEC: dict[str, Any] = {
    "engine.blockTokens": 4,
    "parallelism.stagesPerNode": 2,
    "sampling": {"temperature": 0, "maxTokens": 150},
}
TIGHT: dict[str, Any] = {
    "parallelism.stagesPerNode": 4,
    "engine.microBatches": 6,
    "engine.deviceKvCache": "344Ki",  # 84 blocks: the longest request and a little more
    "kvCache": {"host": "4Mi", "nvme": {"emptyDir": {}, "size": "8Mi"}},
}


def bound(name: str) -> dict[str, Any]:
    inner = {"name": name, "strict": True, "schema": SCHEMAS[name]}
    return {"response_format": {"type": "json_schema", "json_schema": inner}}


def write_inputs(job: JobFolder) -> None:
    """A file for each schema: with each set of parameters, and a free line after them."""
    for name in SCHEMAS:
        lines = [
            text_line(f"{name}-{number}", "Hello world " * (1 + number), **bound(name), **one)
            for number, one in enumerate(PARAMETERS)
        ]
        job.write_input([*lines, free_line(name)], f"{name}.jsonl")


def free_line(name: str) -> bytes:
    return text_line(f"free-{name}", "How are you", max_tokens=20)


def run(folder: Path, model_folder: Path, changes: dict[str, Any]) -> JobFolder:
    folder.mkdir()
    job = JobFolder(folder, model_folder)
    write_inputs(job)
    job.write(SPEC | changes)
    assert job.run("--quiet") == 0
    return job


def texts(job: JobFolder) -> dict[str, str]:
    return {name: answer_text(record) for name, record in job.by_id().items()}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> JobFolder:
    return run(tmp_path_factory.mktemp("structured") / "job", model_folder, {})


def test_every_answer_follows_its_schema(done: JobFolder) -> None:
    for custom_id, record in done.by_id().items():
        name = custom_id.partition("-")[0]
        if name in SCHEMAS:
            assert not faults(answer_text(record), SCHEMAS[name])
            assert record["response"]["body"]["choices"][0]["finish_reason"] == "stop"


def test_lines_beside_them_are_as_free_as_ever(done: JobFolder, tmp_path: Path) -> None:
    alone = JobFolder(tmp_path, done.model_folder)
    alone.write_input([free_line(name) for name in SCHEMAS])
    alone.write(SPEC)
    assert alone.run("--quiet") == 0
    assert texts(alone).items() <= texts(done).items()


def test_rotation_and_preemption_do_not_change_the_texts(done: JobFolder, tmp_path: Path) -> None:
    assert texts(run(tmp_path / "tight", done.model_folder, TIGHT)) == texts(done)


def test_requests_go_on_after_a_stage_has_died(done: JobFolder, tmp_path: Path) -> None:
    """Their matchers begin anew in another process, with the output so far."""
    job = JobFolder(tmp_path, done.model_folder)
    write_inputs(job)
    job.write(SPEC | {"engine.maxNumRequests": 4})
    with RunningJob(job, hold="requests", at=5) as running:
        running.wait_for_requests(5)
        os.kill(running.stage_ids()[-1], signal.SIGKILL)
        running.release()
        assert running.end() == 0
        running.wait_until_gone()
    assert any("again" in line for line in running.said)
    assert texts(job) == texts(done)


def test_requests_go_on_after_a_stop(done: JobFolder, tmp_path: Path) -> None:
    """What is parked is continued by the next run, from the middle of a text."""
    job = JobFolder(tmp_path, done.model_folder)
    write_inputs(job)
    nvme = {"hostPath": str(tmp_path / "nvme"), "size": "8Mi"}
    job.write(SPEC | {"engine.maxNumRequests": 4, "kvCache.nvme": nvme})
    with RunningJob(job, hold="requests", at=5) as running:
        running.wait_for_requests(5)
        running.process.send_signal(signal.SIGTERM)
        assert running.end() == 75
        running.wait_until_gone()
    assert job.run("--quiet") == 0
    assert texts(job) == texts(done)


def test_a_killed_driver_leaves_no_compiler_behind(done: JobFolder, tmp_path: Path) -> None:
    job = JobFolder(tmp_path, done.model_folder)
    write_inputs(job)
    job.write(SPEC | {"engine.maxNumRequests": 1})
    with RunningJob(job, hold="requests", at=1) as running:
        running.wait_for_requests(1)
        running.process.kill()
        assert running.end() == -signal.SIGKILL
        running.wait_until_gone()


def test_choices_chats_and_cut_texts(job: JobFolder) -> None:
    any_object = {"response_format": {"type": "json_object"}}
    job.write_input(
        [
            chat_line("three", n=3, temperature=1.0, **bound("person")),
            chat_line("cut", max_tokens=5, **bound("person")),
            text_line("object", **any_object),
            text_line("stopped", stop=["name"], **bound("person")),
            text_line("refused", **bound("person") | {"response_format": {"type": "xml"}}),
        ]
    )
    job.write(SPEC)
    assert job.run("--quiet") == 0
    records = job.by_id()
    choices = {answer_text(records["three"], choice) for choice in range(3)}
    assert len(choices) == 3
    assert not [fault for text in choices for fault in faults(text, SCHEMAS["person"])]
    assert answer_text(records["cut"]).startswith("{")
    assert records["cut"]["response"]["body"]["choices"][0]["finish_reason"] == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer_text(records["cut"]))
    assert answer_text(records["object"]).startswith("{")
    assert "name" not in answer_text(records["stopped"])
    assert records["stopped"]["response"]["body"]["choices"][0]["finish_reason"] == "stop"
    assert error_code(records["refused"]) == "unsupported_parameter"
