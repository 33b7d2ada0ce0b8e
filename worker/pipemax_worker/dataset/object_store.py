"""Where records and the ledger lie: the few verbs that the rest of ``dataset`` needs.

Exactly-once rests on one of them, :meth:`ObjectStore.put_if_absent`. Keys are relative, with
forward slashes; values are whole objects. An object that was put is durable when the call returns.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from pipemax_worker.errors import OutputError


class ObjectNotFoundError(OutputError):
    """``get`` of a key that holds nothing; the store's KeyError."""


class ObjectChangedError(OutputError):
    """A read that asked for one version of an object found another."""


class ObjectInfo(msgspec.Struct, frozen=True):
    """One object. ``etag`` changes with its content; empty where the store has none."""

    key: str
    size_bytes: int
    etag: str


class ObjectStore(Protocol):
    """A folder or a bucket. Every verb raises OutputError when the store does not answer."""

    @property
    def place(self) -> str:
        """The location as messages name it."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create ``key`` whole and atomically; False, and nothing changed, if it exists.

        True to at most one caller for the life of a key, in whatever process or on whatever node.
        A caller that got neither True nor False (a crash, an OutputError) must read the key.
        """
        ...

    def put(self, key: str, data: bytes) -> None:
        """Create or replace ``key``, whole and atomically."""
        ...

    def get(self, key: str) -> bytes:
        """The object's bytes; raises ObjectNotFoundError."""
        ...

    def exists(self, key: str) -> bool: ...

    def list(self, prefix: str) -> list[str]:
        """All keys that start with ``prefix``, sorted."""
        ...

    def delete(self, key: str) -> None:
        """Remove ``key``; nothing happens if it is gone already."""
        ...

    def probe(self) -> None:
        """Prove, by doing it, that the location can be written and that put_if_absent holds."""
        ...
