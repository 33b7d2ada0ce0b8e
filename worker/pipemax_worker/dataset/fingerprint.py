"""What a job's text depends on, as a plain dictionary: its hash, and what changed between two.

Pure. What belongs in it (model, parameters) and what does not (parallelism, tiers, policy,
deadline) is decided by the caller; the input's files are compared the same way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

_MAX_CHANGES_NAMED = 8
_MAX_VALUE_LENGTH = 80


class Change(msgspec.Struct, frozen=True):
    """One field that differs; ``old`` or ``new`` is None where the field is not set."""

    field: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.field}: was {_shown(self.old)}, is {_shown(self.new)}"


class Fingerprint(msgspec.Struct, frozen=True):
    """``parts`` is plain JSON, one entry a subject, e.g. ``model`` and ``parameters``."""

    parts: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hex."""
        return digest_json(self.parts)

    @property
    def digests(self) -> dict[str, str]:
        """The same for each part by itself."""
        return {name: digest_json(part) for name, part in self.parts.items()}


def build_fingerprint(**parts: Any) -> Fingerprint:
    """A fingerprint of JSON values; values are brought into the form that JSON gives back."""
    return Fingerprint(json.loads(_canonical_json(parts)))


def digest_json(value: Any) -> str:
    """SHA-256 of ``value`` as canonical JSON (sorted keys, no spaces), in hex."""
    return hashlib.sha256(_canonical_json(value)).hexdigest()


def diff_values(old: Any, new: Any, field: str = "") -> tuple[Change, ...]:
    """All differences between two JSON values, by dotted field, in the order of the names."""
    return tuple(_changes(old, new, field))


def describe_changes(changes: Sequence[Change]) -> str:
    """The changes in words, the first few by name."""
    named = "; ".join(str(change) for change in changes[:_MAX_CHANGES_NAMED])
    rest = len(changes) - _MAX_CHANGES_NAMED
    return f"{named}; and {rest} more" if rest > 0 else named


def _changes(old: Any, new: Any, field: str) -> Iterator[Change]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            inner = f"{field}.{name}" if field else name
            yield from _changes(old.get(name), new.get(name), inner)
    elif old != new or isinstance(old, bool) != isinstance(new, bool):
        yield Change(field, old, new)


def _canonical_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[:_MAX_VALUE_LENGTH]}..."
