"""The tiers of the KV cache below the device: host memory and NVMe."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from pipemax_worker.job.names import AbsolutePath, ObjectName
from pipemax_worker.job.quantities import PositiveQuantity, Quantity, format_quantity
from pipemax_worker.job.section import BrokenRule, Section

DEFAULT_HOST_BYTES = 4 * 2**30


class PersistentVolumeClaimSpec(Section):
    """An existing claim in the job's namespace, bound to a disk of the node."""

    claim_name: ObjectName
    """Name of the PersistentVolumeClaim."""


class EmptyDirSpec(Section):
    """A temporary folder, `emptyDir: {}`. It ends with the pod, so nothing is parked there."""


class NvmeSpec(Section):
    """Disk below the host memory, for KV that waits. Exactly one of hostPath,
    persistentVolumeClaim and emptyDir says where. Absent: no such tier."""

    host_path: AbsolutePath | None = None
    """Folder on the node's own disk. Survives the pod: what it parked, the next one takes up."""

    persistent_volume_claim: PersistentVolumeClaimSpec | None = None
    empty_dir: EmptyDirSpec | None = None

    size: PositiveQuantity
    """Bytes for the KV of all stages of a node together, taken from the disk at the start."""

    writes_per_day: PositiveQuantity | None = None
    """Most bytes a node may write to this tier in any 24 hours, to spare the disk. What would be
    more is computed again in place of being moved down or parked. Absent: no limit."""

    def broken_rules(self) -> Iterator[BrokenRule]:
        choices = {
            "hostPath": self.host_path,
            "persistentVolumeClaim": self.persistent_volume_claim,
            "emptyDir": self.empty_dir,
        }
        given = [name for name, value in choices.items() if value is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            allowed = "hostPath, persistentVolumeClaim, emptyDir"
            field = given[-1] if given else ""
            yield BrokenRule(field, f"found {found}, expected exactly one of {allowed}")


class KvCacheSpec(Section):
    """The tiers below the device's own memory. What the device cannot hold moves down."""

    host: Quantity = Field(
        default=DEFAULT_HOST_BYTES,
        json_schema_extra={"default": format_quantity(DEFAULT_HOST_BYTES)},
    )
    """Bytes of host memory for the KV of all stages of a node together. 0: the device tier only,
    and no NVMe, which is reached through host memory."""

    nvme: NvmeSpec | None = None

    @property
    def parked_bytes(self) -> int:
        """Most that a stop moves to a disk that outlives the pod."""
        if self.nvme is None or self.nvme.empty_dir is not None:
            return 0
        return min(self.host, self.nvme.size)

    def broken_rules(self) -> Iterator[BrokenRule]:
        if self.nvme is not None and self.host == 0:
            yield BrokenRule(
                "host", "found 0, expected more: the NVMe tier is reached through host memory"
            )
