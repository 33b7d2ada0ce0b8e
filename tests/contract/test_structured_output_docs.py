"""docs/structured-output.md says of every keyword what the library really does with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit.tokenizer import build_tokenizer_folder
from pipemax_worker.errors import RequestError
from pipemax_worker.prompts.grammars import COMPILE_SECONDS, GrammarCompiler
from pipemax_worker.prompts.response_format import MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH

PAGE = (Path(__file__).parents[2] / "docs" / "structured-output.md").read_text(encoding="utf-8")
STRING = {"type": "string"}
SCHEMAS: dict[str, Any] = {
    "type": STRING,
    "enum": {"enum": [1, "a"]},
    "const": {"const": None},
    "properties": {"type": "object", "properties": {"a": {}}},
    "required": {"type": "object", "required": ["a"]},
    "additionalProperties": {"type": "object", "additionalProperties": STRING},
    "patternProperties": {"type": "object", "patternProperties": {"^a$": {}, "^b$": {}}},
    "minProperties": {"type": "object", "minProperties": 2},
    "maxProperties": {"type": "object", "maxProperties": 3},
    "items": {"type": "array", "items": STRING},
    "prefixItems": {"type": "array", "prefixItems": [STRING, STRING]},
    "minItems": {"type": "array", "minItems": 2},
    "maxItems": {"type": "array", "maxItems": 2},
    "minLength": {"type": "string", "minLength": 2},
    "maxLength": {"type": "string", "maxLength": 2},
    "pattern": {"type": "string", "pattern": "^a+$"},
    "format": {"type": "string", "format": "date"},
    "minimum": {"type": "number", "minimum": 2},
    "maximum": {"type": "number", "maximum": 2},
    "exclusiveMinimum": {"type": "integer", "exclusiveMinimum": 2},
    "exclusiveMaximum": {"type": "integer", "exclusiveMaximum": 2},
    "multipleOf": {"type": "number", "multipleOf": 0.5},
    "anyOf": {"anyOf": [STRING, {"const": 1}]},
    "allOf": {"allOf": [STRING, {"maxLength": 3}]},
    "oneOf": {"oneOf": [STRING, {"type": "integer"}]},
    "$ref": {"type": "array", "items": {"$ref": "#"}},
    "$defs": {"$defs": {"a": STRING}, "$ref": "#/$defs/a"},
    "not": {"not": STRING},
    "if": {"if": STRING},
    "then": {"then": STRING},
    "else": {"else": STRING},
    "uniqueItems": {"type": "array", "uniqueItems": True},
    "contains": {"type": "array", "contains": STRING},
    "dependentRequired": {"type": "object", "dependentRequired": {"a": ["b"]}},
    "propertyNames": {"type": "object", "propertyNames": {"maxLength": 3}},
    "unevaluatedProperties": {"type": "object", "unevaluatedProperties": False},
    "title": {"title": "t"},
    "description": {"description": "d"},
    "default": {"default": 1},
    "examples": {"examples": [1]},
}


def documented() -> dict[str, str]:
    """Keyword -> what the page says of it."""
    section = PAGE[PAGE.index("## Keywords") : PAGE.index("## With other parameters")]
    rows = [line.strip("| ").split(" | ", 1) for line in section.splitlines() if "| `" in line]
    return {name: support for names, support in rows for name in re.findall(r"`(.+?)`", names)}


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrammarCompiler]:
    folder = build_tokenizer_folder(tmp_path_factory.mktemp("tokenizer"))
    compiler = GrammarCompiler(folder / "tokenizer.json", (2,))
    yield compiler
    compiler.close()


def test_every_keyword_of_the_page_is_tried() -> None:
    assert documented().keys() == SCHEMAS.keys()


@pytest.mark.parametrize("keyword", SCHEMAS)
def test_the_page_is_right(compiler: GrammarCompiler, keyword: str) -> None:
    if documented()[keyword] == "refused":
        with pytest.raises(RequestError) as caught:
            compiler.compile(json.dumps(SCHEMAS[keyword]))
        assert keyword in caught.value.message
    else:
        compiler.compile(json.dumps(SCHEMAS[keyword]))


def test_every_format_of_the_page_is_known(compiler: GrammarCompiler) -> None:
    names = re.findall(r"`(.+?)`", documented()["format"])
    assert len(names) == 10
    for name in names:
        compiler.compile(json.dumps({"type": "string", "format": name}))


def test_limits_are_those_of_the_code() -> None:
    size = f"more than {MAX_SCHEMA_BYTES >> 10} KiB or {MAX_SCHEMA_DEPTH} levels"
    assert size in PAGE
    assert f"takes more than {COMPILE_SECONDS:g} s" in PAGE


def test_the_pages_example_compiles(compiler: GrammarCompiler) -> None:
    example = PAGE[PAGE.index("```json") + 7 : PAGE.index("```\n\n| `type`")]
    schema = json.loads(example)["response_format"]["json_schema"]["schema"]
    assert compiler.compile(json.dumps(schema))
