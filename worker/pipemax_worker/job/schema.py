"""The InferenceJob as a structural schema in the form that a CustomResourceDefinition takes."""

from __future__ import annotations

from typing import Any

from pipemax_worker.job.inference_job import InferenceJob

Schema = dict[str, Any]


def json_schema() -> Schema:
    """All of the object: references inlined, no nulls, descriptions, bounds and defaults kept.

    Kubernetes wants it so: a field is absent rather than null, unknown fields are not forbidden by
    the schema (``kubectl`` refuses them itself), and exclusive bounds are a bound and a flag.
    A description is one line.
    """
    raw = InferenceJob.model_json_schema(by_alias=True)
    return _structural(raw, raw.get("$defs", {}))


def _structural(node: Schema, definitions: dict[str, Schema]) -> Schema:
    node = _without_null(_inlined(node, definitions), definitions)
    result: Schema = {}
    for key, value in node.items():
        if key in ("title", "$defs") or (key == "default" and value is None):
            continue
        if key == "properties":
            value = {name: _structural(field, definitions) for name, field in value.items()}
        elif key == "items" or (key == "additionalProperties" and isinstance(value, dict)):
            value = _structural(value, definitions)
        elif key == "additionalProperties":
            continue
        if key == "description":
            value = " ".join(value.split())
        if key == "const":
            key, value = "enum", [value]
        result[key] = value
    return _bounds(result)


def _inlined(node: Schema, definitions: dict[str, Schema]) -> Schema:
    reference = node.get("$ref")
    if reference is None:
        return node
    target = definitions[reference.rpartition("/")[2]]
    return {**target, **{key: value for key, value in node.items() if key != "$ref"}}


def _without_null(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """``anyOf: [X, null]`` -> X. What the field says wins over what X says."""
    choices = [choice for choice in node.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) != 1:
        return node
    outer = {key: value for key, value in node.items() if key != "anyOf"}
    return {**_inlined(choices[0], definitions), **outer}


def _bounds(node: Schema) -> Schema:
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if exclusive in node:
            node[bound], node[exclusive] = node[exclusive], True
    return node
