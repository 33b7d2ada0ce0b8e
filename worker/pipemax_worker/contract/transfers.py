"""Copies of blocks between tiers, as the driver orders them and the stages carry them out."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import msgspec

from pipemax_worker.contract.geometry import Tier


def pack_int32(values: Iterable[int]) -> bytes:
    """Little-endian int32, the form in which slots and token ids travel."""
    return array("i", values).tobytes()


def unpack_int32(data: bytes) -> list[int]:
    values = array("i")
    values.frombytes(data)
    return values.tolist()


class CopyJob(msgspec.Struct, frozen=True):
    """Copy ``source_slots[i]`` of one tier to ``target_slots[i]`` of another, on every stage.

    ``HOST`` is the only gateway: source and target are neighbours (DEVICE-HOST or HOST-NVME).
    Slots are int32 bytes (:func:`pack_int32`), the same numbers on every stage.
    """

    job_id: int
    source: Tier
    target: Tier
    source_slots: bytes
    target_slots: bytes

    @property
    def num_slots(self) -> int:
        return len(self.source_slots) // 4


class CopyResult(msgspec.Struct, frozen=True):
    """What one stage says of one :class:`CopyJob` when its copies have landed.

    ``failed`` holds positions (indices into the job's slots) whose checksum or I/O failed; those
    blocks must be invalidated. ``seconds`` is the time the copies took on the link, without
    queueing; ``num_bytes`` counts whole slots.
    """

    job_id: int
    num_bytes: int
    seconds: float
    failed: tuple[int, ...] = ()
