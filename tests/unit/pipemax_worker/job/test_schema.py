"""The schema for Kubernetes: structural, complete, and of one mind with the validation."""

from collections.abc import Iterator
from typing import Any

from pipemax_worker.job import json_schema

Schema = dict[str, Any]


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from nodes(field, f"{path}.{name}".removeprefix("."))
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key], f"{path}[]")


ALL_NODES = dict(nodes(json_schema()))


def test_only_what_a_structural_schema_may_hold() -> None:
    allowed = {
        "additionalProperties", "anyOf", "default", "description", "enum", "exclusiveMinimum",
        "items", "maximum", "maxItems", "maxLength", "maxProperties", "minimum", "minItems",
        "minLength", "pattern", "properties", "required", "type", "x-kubernetes-int-or-string",
    }  # fmt: skip
    for path, node in ALL_NODES.items():
        assert set(node) <= allowed, path
        assert ("type" in node) != ("x-kubernetes-int-or-string" in node), path
        assert not ("properties" in node and "additionalProperties" in node), path


def test_any_of_is_only_used_for_int_or_string() -> None:
    choices = [{"type": "integer"}, {"type": "string"}]
    for path, node in ALL_NODES.items():
        has_it = "x-kubernetes-int-or-string" in node
        assert node.get("anyOf") == (choices if has_it else None), path


def test_every_text_list_and_map_is_bounded_for_cel() -> None:
    bounds = {"string": "maxLength", "array": "maxItems"}
    for path, node in ALL_NODES.items():
        if "enum" in node or path.startswith("metadata"):
            continue
        if node.get("type") in bounds:
            assert bounds[node["type"]] in node, path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path


def test_every_number_has_both_bounds() -> None:
    for path, node in ALL_NODES.items():
        if node.get("type") in ("integer", "number") or "x-kubernetes-int-or-string" in node:
            assert node["minimum"] < node["maximum"], path


def test_exclusive_bounds_are_flags() -> None:
    top_p = ALL_NODES["spec.sampling.topP"]
    assert (top_p["minimum"], top_p["exclusiveMinimum"], top_p["maximum"]) == (0, True, 1)


def test_defaults_are_written_as_a_user_writes_them() -> None:
    assert ALL_NODES["spec.kvCache.host"]["default"] == "4Gi"
    assert ALL_NODES["spec.engine.memoryFraction"]["default"] == 0.92
    assert "default" not in ALL_NODES["spec.deadline"]


def test_what_is_required() -> None:
    assert json_schema()["required"] == ["apiVersion", "kind", "metadata", "spec"]
    assert ALL_NODES["spec"]["required"] == ["model", "input", "output"]
    assert ALL_NODES["spec.kvCache.nvme"]["required"] == ["size"]


def test_kind_and_version_are_fixed() -> None:
    assert ALL_NODES["kind"]["enum"] == ["InferenceJob"]
    assert ALL_NODES["apiVersion"]["enum"] == ["pipemax.dev/v1alpha1"]
