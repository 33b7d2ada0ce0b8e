"""The JSON documents of a ledger, for people to read as well."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.errors import OutputError

_T = TypeVar("_T")


def encode_document(value: msgspec.Struct) -> bytes:
    """Indented, with a line end."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def decode_document(store: ObjectStore, key: str, kind: type[_T]) -> _T:
    """The document at ``key``. Raises ObjectNotFoundError, OutputError if it is damaged."""
    data = store.get(key)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise OutputError(
            f"{store.place}: {key} cannot be read: {error}; "
            "it was changed from outside or written by another version: restore it"
        ) from error
