"""``stage-K.index``: the checksums of a stage's KV file, kept for a later run.

Written once, at the end of a run whose KV is parked, when the KV file itself is on the disk. A
later run believes a KV file only by an index that is whole and fits: anything else raises
KVTierError, and the file is as good as empty.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pipemax_worker.errors import KVTierError

INDEX_VERSION = 1
_MAGIC = b"PMXKVIDX"
_CHECKSUM_BYTES = 4


class NVMeIndex(msgspec.Struct, frozen=True):
    """``checksums[slot]``: CRC-32 of the slot's bytes, None where nothing was written."""

    version: int
    num_slots: int
    slot_bytes: int
    checksums: list[int | None]


def index_path(kv_path: Path) -> Path:
    """Beside the KV file."""
    return kv_path.with_suffix(".index")


def write_index(kv_path: Path, slot_bytes: int, checksums: Sequence[int | None]) -> None:
    """Write the index and see it onto the disk, whole or not at all. Raises OSError."""
    index = NVMeIndex(INDEX_VERSION, len(checksums), slot_bytes, list(checksums))
    body = msgspec.msgpack.encode(index)
    path = index_path(kv_path)
    unfinished = path.with_suffix(".tmp")
    try:
        with unfinished.open("wb") as file:
            file.write(_MAGIC + zlib.crc32(body).to_bytes(_CHECKSUM_BYTES, "little") + body)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
        sync_folder(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def read_index(kv_path: Path, num_slots: int, slot_bytes: int) -> list[int | None]:
    """The checksums of ``num_slots`` slots. Raises KVTierError, saying why it cannot be used."""
    path = index_path(kv_path)
    try:
        data = path.read_bytes()
        num_bytes = kv_path.stat().st_size
    except OSError as error:
        raise KVTierError(f"{error.filename}: {error.strerror}") from error
    index = _decode(data, path)
    if (index.num_slots, index.slot_bytes) != (num_slots, slot_bytes):
        raise KVTierError(
            f"{path}: {index.num_slots} slots of {index.slot_bytes} bytes, now {num_slots} "
            f"of {slot_bytes}"
        )
    if num_bytes != num_slots * slot_bytes or len(index.checksums) != num_slots:
        raise KVTierError(f"{kv_path}: {num_bytes} bytes, expected {num_slots * slot_bytes}")
    return index.checksums


def _decode(data: bytes, path: Path) -> NVMeIndex:
    start = len(_MAGIC) + _CHECKSUM_BYTES
    checksum, body = data[len(_MAGIC) : start], data[start:]
    if data[: len(_MAGIC)] != _MAGIC or zlib.crc32(body).to_bytes(4, "little") != checksum:
        raise KVTierError(f"{path}: torn, or no index at all")
    try:
        index = msgspec.msgpack.decode(body, type=NVMeIndex)
    except msgspec.DecodeError as error:
        raise KVTierError(f"{path}: not understood: {error}") from error
    if index.version != INDEX_VERSION:
        raise KVTierError(f"{path}: version {index.version}, expected {INDEX_VERSION}")
    return index


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
