"""Pydantic's errors in the words of the job file: field, what was found, what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic_core import ErrorDetails

from pipemax_worker.job.document import Document, Fault, Location
from pipemax_worker.job.fields import allowed_fields, allowed_words, closest, places_of
from pipemax_worker.job.names import PATTERN_WORDS

_MAX_FOUND_CHARACTERS = 60

_EXPECTED: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "string_type": lambda _: "text",
    "int_type": lambda _: "a whole number",
    "int_from_float": lambda _: "a whole number",
    "float_type": lambda _: "a number",
    "finite_number": lambda _: "a finite number",
    "bool_type": lambda _: "true or false",
    "list_type": lambda _: "a list",
    "tuple_type": lambda _: "a list",
    "dict_type": lambda _: "a mapping",
    "model_type": lambda _: "a mapping",
    "model_attributes_type": lambda _: "a mapping",
    "greater_than": lambda context: f"more than {_number(context['gt'])}",
    "greater_than_equal": lambda context: f"at least {_number(context['ge'])}",
    "less_than": lambda context: f"less than {_number(context['lt'])}",
    "less_than_equal": lambda context: f"at most {_number(context['le'])}",
    "string_too_short": lambda context: _count("at least", context["min_length"], "character"),
    "string_too_long": lambda context: _count("at most", context["max_length"], "character"),
    "too_short": lambda context: _count("at least", context["min_length"], "entry", "entries"),
    "too_long": lambda context: _count("at most", context["max_length"], "entry", "entries"),
    "string_pattern_mismatch": lambda context: PATTERN_WORDS[context["pattern"]],
    "unexpected": lambda context: str(context["expected"]),
}


def _count(bound: str, number: int, unit: str, units: str | None = None) -> str:
    return f"{bound} {number} {unit if number == 1 else units or unit + 's'}"


def _number(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else str(bound)


def describe(error: ErrorDetails, document: Document) -> Iterator[Fault]:
    """The faults behind one error: several where it stands for broken rules."""
    location: Location = error["loc"]
    context = error.get("ctx", {})
    if error["type"] == "broken_rules":
        for rule in context["broken"]:
            inner = (*location, *_steps(rule.field))
            yield Fault(document.line(inner), inner, rule.message)
        return
    yield Fault(document.line(location), location, _message(error, context, document))


def _steps(field: str) -> Iterator[int | str]:
    for step in field.split(".") if field else ():
        yield int(step) if step.isdecimal() else step


def _message(error: ErrorDetails, context: Mapping[str, Any], document: Document) -> str:
    kind, location = error["type"], error["loc"]
    if kind == "missing":
        return f"{'has no value' if document.has(location) else 'missing'}, but is required"
    if kind == "extra_forbidden":
        return _unknown_field(location)
    value = document.value_at(location)
    found = _found(value)
    if kind == "literal_error":
        return f"found {found}, expected {_one_of(location, value)}"
    if kind not in _EXPECTED:
        return f"found {found}: {error['msg']}"
    is_unquoted = kind == "string_type" and not isinstance(value, dict | list)
    hint = "; put it in quotes" if is_unquoted else ""
    return f"found {found}, expected {_EXPECTED[kind](context)}{hint}"


def _found(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = repr(value)
    if len(text) <= _MAX_FOUND_CHARACTERS:
        return text
    return f"{text[:_MAX_FOUND_CHARACTERS]}... ({len(str(value))} characters)"


def _one_of(location: Location, found: object) -> str:
    words = allowed_words(location)
    close = closest(str(found), words)
    text = f"one of {', '.join(words)}" if len(words) > 1 else "".join(words)
    return f"{text}; did you mean {close}?" if close and len(words) > 1 else text


def _unknown_field(location: Location) -> str:
    allowed = allowed_fields(location[:-1])
    name = str(location[-1])
    close = closest(name, allowed)
    meant = (close,) if close else places_of(name)
    question = f"did you mean {' or '.join(meant)}? " if meant else ""
    return f"unknown field; {question}allowed here: {', '.join(allowed) or 'nothing'}"
