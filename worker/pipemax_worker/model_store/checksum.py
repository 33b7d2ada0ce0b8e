"""Hashes by which a source names a file's content."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

_READ_BYTES = 4 << 20


class ChecksumKind(enum.Enum):
    """``GIT_SHA1`` is git's name of a blob: SHA-1 over a header with the size, then the content."""

    SHA256 = "sha256"
    GIT_SHA1 = "git sha1"
    MD5 = "md5"


class Checksum(msgspec.Struct, frozen=True):
    """``hex_digest`` in lower case."""

    kind: ChecksumKind
    hex_digest: str


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def hash_file(path: Path, kind: ChecksumKind, check_stop: Callable[[], None]) -> str:
    """The file's digest in hex. Raises OSError, and what ``check_stop`` raises."""
    content = _start(kind, path.stat().st_size)
    with path.open("rb", buffering=0) as file:
        while data := file.read(_READ_BYTES):
            check_stop()
            content.update(data)
    return content.hexdigest()


def _start(kind: ChecksumKind, size_bytes: int) -> _Hash:
    # The weak ones are the source's choice, and guard against damage, not against forgery.
    if kind is ChecksumKind.MD5:
        return hashlib.md5(usedforsecurity=False)
    if kind is ChecksumKind.GIT_SHA1:
        return hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)
    return hashlib.sha256()
