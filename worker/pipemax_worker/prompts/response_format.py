"""``response_format`` of a body: which JSON schema the answer must follow, if any.

OpenAI's forms: ``text``, ``json_object`` (any JSON object) and ``json_schema``. A schema is
enforced whether or not it is ``strict``.
"""

from __future__ import annotations

import json
from typing import Any

from pipemax_worker.errors import RequestError
from pipemax_worker.prompts.fields import Fields, describe, invalid_type

MAX_SCHEMA_BYTES = 256 * 1024
MAX_SCHEMA_DEPTH = 100

_TYPES = ("text", "json_object", "json_schema")
_ANY_OBJECT = '{"type": "object"}'
# Options of the grammar library, which a schema would set for itself.
_OPTIONS_KEY = "x-guidance"


def take_response_format(fields: Fields) -> str | None:
    """Take ``response_format`` out of a body: the text of the JSON schema that the answer must
    follow, or None where it is free.

    Raises RequestError: ``invalid_type``, ``missing_field``, ``unsupported_parameter``, and
    ``invalid_response_format`` for a schema that is too large or nested too deeply.
    """
    value = fields.take("response_format")
    if value is None:
        return None
    own = Fields(value, fields.param("response_format"))
    kind = own.take_string("type")
    if kind not in _TYPES:
        param, served = own.param("type"), ", ".join(repr(one) for one in _TYPES)
        message = f"{param} must be one of {served}; found {describe(kind)}"
        raise RequestError("unsupported_parameter", message, param)
    schema = _take_schema(own) if kind == "json_schema" else None
    own.refuse_rest()
    return _ANY_OBJECT if kind == "json_object" else schema


def _take_schema(response_format: Fields) -> str:
    inner = Fields(
        response_format.take_required("json_schema"), response_format.param("json_schema")
    )
    inner.take_string("name")
    inner.take_boolean("strict", False)
    inner.ignore("description")
    schema = inner.take_required("schema")
    inner.refuse_rest()
    param = inner.param("schema")
    if not isinstance(schema, dict):
        raise invalid_type(param, "a JSON schema, which is an object", schema)
    if _OPTIONS_KEY in schema:
        param = f"{param}.{_OPTIONS_KEY}"
        raise RequestError("unsupported_parameter", f"{param} is not supported; remove it", param)
    return _schema_text(schema, param)


def _schema_text(schema: dict[str, Any], param: str) -> str:
    if _is_deeper(schema, MAX_SCHEMA_DEPTH):
        message = f"{param} is nested more than {MAX_SCHEMA_DEPTH} levels deep; use $defs and $ref"
        raise RequestError("invalid_response_format", message, param)
    text = json.dumps(schema, ensure_ascii=False)
    num_bytes = len(text.encode("utf-8", "surrogatepass"))
    if num_bytes > MAX_SCHEMA_BYTES:
        message = f"{param} has {num_bytes} bytes; at most {MAX_SCHEMA_BYTES} are allowed"
        raise RequestError("invalid_response_format", message, param)
    return text


def _is_deeper(value: object, max_depth: int) -> bool:
    """Level by level, so that no depth is too much for this check itself."""
    level = [value]
    for _ in range(max_depth):
        level = [inner for one in level for inner in _children(one)]
        if not level:
            return False
    return True


def _children(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
