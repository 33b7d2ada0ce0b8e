"""When a node's disk may be swept again, and when it is to be looked at without a cause."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection

from pipemax_operator.sweeps import Disk

LOOK_SECONDS = 6 * 3600.0
"""So often a disk that jobs use is looked at for what nobody knows of."""


class DiskTimes:
    """In memory alone: a new operator waits for nothing, and looks at each disk within some hours,
    not at all of them at once."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._not_before: dict[Disk, float] = {}
        self._looked_at: dict[Disk, float] = {}

    def wait(self, disk: Disk, seconds: float) -> None:
        """No sweep of it for so long."""
        self._not_before[disk] = self._monotonic() + seconds

    def note_look(self, disk: Disk) -> None:
        """A sweep has been there just now."""
        self._looked_at[disk] = self._monotonic()

    def seconds_left(self, disk: Disk) -> float:
        """Until it may be swept again; 0: now."""
        return max(0.0, self._not_before.get(disk, 0.0) - self._monotonic())

    def is_due(self, disk: Disk) -> bool:
        return self.seconds_left(disk) == 0

    def stale(self, disks: Collection[Disk]) -> set[Disk]:
        """Those of ``disks`` that are to be looked at."""
        now = self._monotonic()
        for disk in set(disks) - self._looked_at.keys():
            share = zlib.crc32(repr(disk).encode()) / 2**32
            self._looked_at[disk] = now - share * LOOK_SECONDS
        return {disk for disk in disks if now - self._looked_at[disk] > LOOK_SECONDS}
