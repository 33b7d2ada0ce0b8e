"""`response_format`: OpenAI's forms, and what is refused before anything is compiled."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pipemax_worker.errors import RequestError
from pipemax_worker.prompts import response_format
from pipemax_worker.prompts.fields import Fields
from pipemax_worker.prompts.response_format import MAX_SCHEMA_DEPTH, take_response_format


def take(value: Any) -> str | None:
    fields = Fields({"response_format": value}, "body")
    schema = take_response_format(fields)
    fields.refuse_rest()
    return schema


def bound(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, **more}}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth - 1):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize("value", [None, {"type": "text"}])
def test_free_text(value: Any) -> None:
    assert take(value) is None


def test_any_object() -> None:
    schema = take({"type": "json_object"})
    assert schema is not None
    assert json.loads(schema) == {"type": "object"}


@pytest.mark.parametrize("more", [{}, {"strict": True}, {"strict": None}, {"description": "d"}])
def test_a_schema_keeps_its_order_whether_strict_or_not(more: dict[str, Any]) -> None:
    schema = {"properties": {"z": {}, "a": {"const": "\N{EURO SIGN}"}, "m": {}}, "required": ["a"]}
    text = take(bound(schema, **more))
    assert text == json.dumps(schema, ensure_ascii=False)


@pytest.mark.parametrize(
    ("value", "code", "param"),
    [
        ("json", "invalid_type", ""),
        ({}, "missing_field", ".type"),
        ({"type": 5}, "invalid_type", ".type"),
        ({"type": "grammar"}, "unsupported_parameter", ".type"),
        ({"type": "json_object", "schema": {}}, "unsupported_parameter", ".schema"),
        ({"type": "text", "json_schema": {}}, "unsupported_parameter", ".json_schema"),
        ({"type": "json_schema"}, "missing_field", ".json_schema"),
        ({"type": "json_schema", "json_schema": []}, "invalid_type", ".json_schema"),
        (bound(None), "missing_field", ".json_schema.schema"),
        (bound(True), "invalid_type", ".json_schema.schema"),
        (bound({}, strict=1), "invalid_type", ".json_schema.strict"),
        (bound({}, name=None), "missing_field", ".json_schema.name"),
        (bound({}, name=""), "invalid_value", ".json_schema.name"),
        (bound({}, extra=1), "unsupported_parameter", ".json_schema.extra"),
        (
            bound({"x-guidance": {"lenient": True}}),
            "unsupported_parameter",
            ".json_schema.schema.x-guidance",
        ),
        (bound(nested(MAX_SCHEMA_DEPTH + 1)), "invalid_response_format", ".json_schema.schema"),
        (bound(nested(100_000)), "invalid_response_format", ".json_schema.schema"),
    ],
    ids=lambda value: str(value)[:60] if not isinstance(value, dict) else None,
)
def test_what_is_refused(value: Any, code: str, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        take(value)
    assert (caught.value.code, caught.value.param) == (code, f"body.response_format{param}")


def test_a_schema_of_the_greatest_depth_passes() -> None:
    assert take(bound(nested(MAX_SCHEMA_DEPTH))) is not None


def test_size_is_counted_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_format, "MAX_SCHEMA_BYTES", 30)
    assert take(bound({"const": "\N{EURO SIGN}" * 5})) is not None
    with pytest.raises(RequestError, match="has 31 bytes; at most 30"):
        take(bound({"const": "\N{EURO SIGN}" * 6}))
