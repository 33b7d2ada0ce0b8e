"""``park.json``: what a stopped run has left for the next one of its job on this machine.

It is written last, when every stage's KV file and index are on the disk, and renamed before it is
used: so it is used once, and a run that crashes after that costs a recomputation and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import msgspec

from pipemax_worker.contract.geometry import KVGeometry
from pipemax_worker.contract.request import Request, RequestProgress
from pipemax_worker.errors import KVTierError
from pipemax_worker.kvcache.parking import ParkedKV, find_fault
from pipemax_worker.runner.nvme_folder import RunFolder

PARK_VERSION = 1
USED_NAME = "park.used.json"


class ParkIdentity(msgspec.Struct, frozen=True):
    """Whose outputs and KV these are. All must be the same for any of it to be used.

    job                 digest of the ledger's fingerprint: model and parameters.
    model               digest of the model alone.
    ledger_created_at   of the ledger in the job's output.
    dtype               of the weights and activations that computed it; ``kv_dtype`` of the KV.
    """

    job: str
    model: str
    ledger_created_at: str
    dtype: str
    kv_dtype: str


class ParkedEntry(msgspec.Struct, frozen=True):
    """One unfinished request. The digests are of what its outputs depend on."""

    progress: RequestProgress
    prompt_digest: str
    sampling_digest: str

    def belongs_to(self, request: Request) -> bool:
        digests = prompt_digest(request), sampling_digest(request)
        return digests == (self.prompt_digest, self.sampling_digest)


class ParkIndex(msgspec.Struct, frozen=True):
    """``geometry`` is that of the KV files; None: no KV was kept, outputs alone. ``worker`` is who
    has parked, by its name in the ledger; it has ended since."""

    identity: ParkIdentity
    geometry: KVGeometry | None
    entries: tuple[ParkedEntry, ...]
    worker: str = ""


class _ParkFile(msgspec.Struct, frozen=True):
    version: int
    checksum: str
    index: msgspec.Raw


def prompt_digest(request: Request) -> str:
    return _digest(msgspec.msgpack.encode(request.prompt_token_ids))


def sampling_digest(request: Request) -> str:
    plain = msgspec.to_builtins((request.sampling, request.seed), str_keys=True)
    return _digest(msgspec.json.encode(plain, order="sorted"))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_park_index(folder: RunFolder, index: ParkIndex) -> None:
    """Write it whole or not at all and see it onto the disk. Raises OSError."""
    body = msgspec.json.encode(index)
    data = msgspec.json.encode(_ParkFile(PARK_VERSION, _digest(body), msgspec.Raw(body)))
    unfinished = folder.park_index.with_suffix(".tmp")
    with unfinished.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(folder.park_index)
    _sync(folder.path)
    _sync(folder.path.parent)


def take_park_index(folder: RunFolder) -> ParkIndex | None:
    """Use up the folder's index; None if there is none. Raises KVTierError for one that cannot be
    believed, and OSError where it cannot be renamed or read."""
    used = folder.path / USED_NAME
    try:
        folder.park_index.rename(used)
    except FileNotFoundError:
        return None
    _sync(folder.path)
    return _decode(used.read_bytes())


def give_back_park_index(folder: RunFolder) -> None:
    """Nothing was done with it: it is the next run's again."""
    with contextlib.suppress(OSError):
        (folder.path / USED_NAME).rename(folder.park_index)


def _decode(data: bytes) -> ParkIndex:
    try:
        file = msgspec.json.decode(data, type=_ParkFile)
        if file.version != PARK_VERSION:
            raise KVTierError(f"its format is version {file.version}, expected {PARK_VERSION}")
        if _digest(bytes(file.index)) != file.checksum:
            raise KVTierError("its index is damaged")
        return msgspec.json.decode(file.index, type=ParkIndex)
    except msgspec.MsgspecError as error:
        raise KVTierError(f"its index cannot be read: {error}") from error


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_IDENTITY_FAULTS = {
    "model": "it was computed by another model",
    "job": "the job's parameters were others",
    "ledger_created_at": "it belongs to an earlier output of this job",
    "dtype": "it was computed in another dtype",
    "kv_dtype": "its KV has another dtype",
}


def find_identity_fault(index: ParkIndex, identity: ParkIdentity) -> str | None:
    """Why nothing of it may be used, or None. Pure."""
    for field, fault in _IDENTITY_FAULTS.items():
        if getattr(index.identity, field) != getattr(identity, field):
            return fault
    return None


def find_geometry_fault(index: ParkIndex, geometry: KVGeometry) -> str | None:
    """Why its KV does not fit a pipeline of ``geometry``, or None. Pure.

    Slots of the device and host tiers may be as many as they like: nothing is left in them.
    """
    old = index.geometry
    if old is None:
        return "none was kept"
    if old.layers_of_stage != geometry.layers_of_stage:
        return f"its stages had {old.layers_of_stage} layers, now {geometry.layers_of_stage}"
    same_tiers = msgspec.structs.replace(
        old, num_device_slots=geometry.num_device_slots, num_host_slots=geometry.num_host_slots
    )
    if same_tiers != geometry:
        return (
            f"it lies in {old.num_nvme_slots} slots of {old.block_tokens} tokens, now there are "
            f"{geometry.num_nvme_slots} of {geometry.block_tokens}"
        )
    extents = [
        ParkedKV(entry.progress.nvme_slots, entry.progress.num_computed_tokens)
        for entry in index.entries
    ]
    return find_fault(extents, geometry.num_nvme_slots, geometry.block_tokens)


def without_kv(entry: ParkedEntry) -> ParkedEntry:
    """Its outputs alone."""
    progress = msgspec.structs.replace(entry.progress, num_computed_tokens=0, nvme_slots=())
    return msgspec.structs.replace(entry, progress=progress)
