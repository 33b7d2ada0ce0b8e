"""What was measured of a machine, and what a job needs of it. Frozen; None is what is not known."""

from __future__ import annotations

import msgspec


class Needs(msgspec.Struct, frozen=True):
    """Of one worker, all stages together unless it says otherwise.

    device                 ``cpu`` or ``cuda``.
    host_kv_bytes          taken and touched at the start, and pinned for GPUs.
    host_device_kv_bytes   the device tier, where the device's memory is the host's (on a CPU).
    host_weight_bytes      weights in host memory: all of them on a CPU; beside GPUs the embedding,
                           pinned.
    nvme_kv_bytes          0: no such tier.
    grace_period_seconds   in which a stopped worker parks what its host tier holds.
    """

    device: str
    num_stages: int
    host_kv_bytes: int
    host_device_kv_bytes: int = 0
    host_weight_bytes: int = 0
    nvme_kv_bytes: int = 0
    grace_period_seconds: float = 60.0


class MemoryFacts(msgspec.Struct, frozen=True):
    """In bytes.

    limit              of this process's control groups: what it may use before it is killed.
    total, available   of the machine.
    memlock            soft limit of locked memory.
    shared_size        size of the file system /dev/shm; ``shared_free``: what is left of it.
    """

    limit: int | None = None
    total: int | None = None
    available: int | None = None
    memlock: int | None = None
    shared_size: int | None = None
    shared_free: int | None = None


class NvmeFacts(msgspec.Struct, frozen=True):
    """Of the folder of the NVMe tier.

    free_bytes      on its file system, with what the tier's own files there take up already.
    is_direct       reads and writes go past the page cache.
    fault           why it cannot be written.
    *_bytes_per_second   of a short trial; None: not measured.
    """

    place: str
    free_bytes: int = 0
    is_direct: bool = False
    write_bytes_per_second: float | None = None
    read_bytes_per_second: float | None = None
    fault: str | None = None


class GpuFacts(msgspec.Struct, frozen=True):
    """``used_bytes``: by all programs, None if nobody says. ``fault``: why it cannot be used."""

    uuid: str
    total_bytes: int
    used_bytes: int | None = None
    fault: str | None = None


class MachineFacts(msgspec.Struct, frozen=True):
    """``io_uring_fault``: why the kernel refuses io_uring, None where it does not."""

    memory: MemoryFacts
    io_uring_fault: str | None = None
    nvme: NvmeFacts | None = None
    gpus: tuple[GpuFacts, ...] = ()
