"""Amounts as people write them: Kubernetes quantities (bytes) and durations (seconds).

``parse_*`` and ``format_*`` are inverse to each other on values: parse(format(n)) == n.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from pipemax_worker.job.section import unexpected

MAX_QUANTITY_BYTES = 2**63 - 1
MAX_DURATION_SECONDS = 365 * 86_400

_BINARY_SUFFIXES = {suffix: 1024**n for n, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi"), 1)}
_DECIMAL_SUFFIXES = {suffix: 1000**n for n, suffix in enumerate(("k", "M", "G", "T", "P"), 1)}
_SUFFIXES = {"": 1, **_BINARY_SUFFIXES, **_DECIMAL_SUFFIXES}

QUANTITY_PATTERN = r"^[0-9]{1,19}(\.[0-9]{1,9})?([kMGTP]|[KMGTP]i)?$"
_QUANTITY = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)([kMGTP]|[KMGTP]i)?")
_MISSPELT_QUANTITY = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?) *([kmgtp])(i?)b?", re.IGNORECASE)

_DURATION_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
DURATION_PATTERN = r"^([0-9]{1,9}d)?([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$"
_DURATION = re.compile(DURATION_PATTERN)


def parse_quantity(value: object) -> int:
    """Bytes of ``200Gi``, ``1.5Ti``, ``500M`` or a plain number; parts of a byte round up.

    Suffixes k M G T P (powers of 1000) and Ki Mi Gi Ti Pi (powers of 1024), as in Kubernetes; its
    ``m`` (thousandths) means nothing for bytes. Raises PydanticCustomError.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise unexpected(_quantity_words(value))
    if isinstance(value, int):
        return value
    match = _QUANTITY.fullmatch(value)
    if match is None:
        raise unexpected(_quantity_words(value))
    exact = Decimal(match[1]) * _SUFFIXES[match[2] or ""]
    num_bytes = int(exact.to_integral_value(ROUND_CEILING))
    if num_bytes > MAX_QUANTITY_BYTES:
        raise unexpected(f"at most {MAX_QUANTITY_BYTES} bytes")
    return num_bytes


def _quantity_words(value: object) -> str:
    words = "a quantity such as 200Gi or 1Ti"
    match = _MISSPELT_QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return words
    letter = match[2].upper()
    binary, decimal = f"{match[1]}{letter}i", f"{match[1]}{letter.replace('K', 'k')}"
    return f"{words}; did you mean {binary if match[3] else f'{binary} or {decimal}'}?"


def format_quantity(num_bytes: int) -> str:
    """The shortest exact form: ``200Gi``, ``500M`` or a plain number."""
    exact = (
        f"{num_bytes // factor}{suffix}"
        for suffix, factor in _SUFFIXES.items()
        if num_bytes % factor == 0
    )
    return min(exact, key=len) if num_bytes else "0"


def parse_duration(value: object) -> int:
    """Seconds of ``12h``, ``30m``, ``1d12h`` or a plain number. Raises PydanticCustomError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if not match or not value:
        raise unexpected("a duration such as 12h, 30m or 1d12h, or a whole number of seconds")
    parts = (part for part in match.groups() if part)
    return sum(int(part[:-1]) * _DURATION_UNITS[part[-1]] for part in parts)


def format_duration(seconds: int) -> str:
    """``1d12h`` for 129600; ``0s`` for nothing."""
    text = ""
    for unit, length in _DURATION_UNITS.items():
        count, seconds = divmod(seconds, length)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def _int_or_string(pattern: str, least: int, most: int) -> WithJsonSchema:
    """What Kubernetes calls int-or-string: the bounds hold for numbers, the pattern for texts."""
    return WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": pattern,
            "minimum": least,
            "maximum": most,
        }
    )


Quantity = Annotated[
    int,
    Field(ge=0, le=MAX_QUANTITY_BYTES),
    BeforeValidator(parse_quantity),
    PlainSerializer(format_quantity, return_type=str),
    _int_or_string(QUANTITY_PATTERN, 0, MAX_QUANTITY_BYTES),
]
PositiveQuantity = Annotated[
    int,
    Field(ge=1, le=MAX_QUANTITY_BYTES),
    BeforeValidator(parse_quantity),
    PlainSerializer(format_quantity, return_type=str),
    _int_or_string(QUANTITY_PATTERN, 1, MAX_QUANTITY_BYTES),
]
Duration = Annotated[
    int,
    Field(ge=1, le=MAX_DURATION_SECONDS),
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    _int_or_string(DURATION_PATTERN, 1, MAX_DURATION_SECONDS),
]
