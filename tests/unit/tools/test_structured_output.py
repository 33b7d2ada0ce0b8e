"""The tool that judges structured output, and its example."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import make_structured
import pytest
import structured_output
from jsonschema import Draft202012Validator
from structured_output import (
    Run,
    fault_of,
    free_requests,
    read_summary,
    report_answers,
    run_and_count,
)
from structured_schemas import QUESTIONS, SCHEMAS

PRICE = {
    "type": "object",
    "properties": {"price": {"type": "number", "multipleOf": 0.01}},
    "required": ["price"],
}


def request(custom_id: str = "a", schema: dict[str, Any] | None = None) -> dict[str, Any]:
    inner = {"name": "price", "schema": schema or PRICE}
    body = {"max_tokens": 9, "response_format": {"type": "json_schema", "json_schema": inner}}
    return {"custom_id": custom_id, "url": "/v1/chat/completions", "body": body}


def record(text: str, custom_id: str = "a", num_tokens: int = 5) -> dict[str, Any]:
    body = {
        "choices": [{"message": {"content": text}}],
        "usage": {"completion_tokens": num_tokens},
    }
    response = {"status_code": 200, "body": body}
    return {"custom_id": custom_id, "error": None, "response": response}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"price": 19.99}', None),
        ('{"price": 19.999}', "not a multiple"),
        ('{"price": "x"}', "not of type 'number'"),
        ("{}", "required property"),
        ('{"price": 19.9', "not JSON"),
    ],
)
def test_faults_of_answers(text: str, fault: str | None) -> None:
    found = fault_of(request(), record(text))
    assert found is None if fault is None else fault in str(found)


def test_formats_are_validated() -> None:
    schema = {"type": "string", "format": "date"}
    assert fault_of(request(schema=schema), record('"2026-02-28"')) is None
    assert "not a 'date'" in str(fault_of(request(schema=schema), record('"2026-02-30"')))


def test_records_that_are_missing_or_errors_are_faults() -> None:
    assert fault_of(request(), None) == "no record"
    failed = {"custom_id": "a", "error": {"code": "invalid_response_format"}, "response": None}
    assert "invalid_response_format" in str(fault_of(request(), failed))


def test_the_report_counts_by_schema_and_names_faults() -> None:
    requests = [request("a"), request("b")]
    text, is_valid = report_answers(requests, [record('{"price": 1}', "a"), record("[]", "b")])
    assert not is_valid
    assert "price         1/2" in text
    assert "1/2 parse and validate" in text
    assert "b (price): [] is not of type 'object'" in text
    assert report_answers(requests[:1], [record('{"price": 1}')])[1]


def test_free_requests_generate_as_much_without_a_schema() -> None:
    (free,) = free_requests([request()], [record("{}", num_tokens=7)])
    assert free["body"] == {"max_tokens": 8, "ignore_eos": True}
    assert free["custom_id"] == "a"


def test_the_summary_is_understood() -> None:
    line = "  speed     105.5 generated tokens/s over 1 min 55 s\n"
    assert read_summary(line) == (105.5, 0.0)
    assert read_summary(f"{line}  schemas   0.022 s of waiting for masks") == (105.5, 0.022)
    with pytest.raises(ValueError, match="no speed"):
        read_summary("nothing to do")


def test_bound_and_free_runs_take_turns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[tuple[str, bool]] = []

    def run_job(requests: list[dict[str, Any]], folder: Path) -> Run:
        is_bound = "response_format" in requests[0]["body"]
        ran.append((folder.name, is_bound))
        records = tuple(record("{}", one["custom_id"]) for one in requests)
        return Run(records, 90.0, 33.0, 0.25) if is_bound else Run(records, 100.0, 30.0, 0.0)

    monkeypatch.setattr(structured_output, "run_job", run_job)
    assert structured_output.main(["--rounds", "2"]) == 1, "{} follows none of the schemas"
    assert ran == [("bound-0", True), ("free-0", False), ("bound-1", True), ("free-1", False)]
    said = capsys.readouterr().out
    assert said.count("33.0 CPU s, without 30.0: 1.100; waited 0.250 s") == 2
    assert "median: 0.900 x the tokens/s, 1.100 x the CPU seconds" in said


def test_cpu_seconds_of_grandchildren_count() -> None:
    busy = "import time\nwhile time.process_time() < 1.0: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}]); print(1)"
    output, seconds = run_and_count([sys.executable, "-c", parent])
    assert output == "1\n"
    assert seconds >= 0.2, "up to the last look"
    with pytest.raises(SystemExit, match="ended with 3"):
        run_and_count([sys.executable, "-c", "raise SystemExit(3)"])


def test_the_example_asks_each_question_with_each_parameters() -> None:
    requests = make_structured.make_requests(make_structured.SEED)
    assert len(requests) == make_structured.NUM_REQUESTS
    names = [one["body"]["response_format"]["json_schema"]["name"] for one in requests]
    assert set(Counter(names).values()) == {20}
    assert set(names) == set(SCHEMAS) == set(QUESTIONS)


def test_the_schemas_are_what_users_have() -> None:
    text = json.dumps(SCHEMAS)
    for keyword in ("enum", "anyOf", "$ref", "$defs", "format", "pattern", "multipleOf", "null"):
        assert f'"{keyword}"' in text
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)
