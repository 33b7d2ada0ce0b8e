"""The links of one simulated stage: when copies start and land.

Each link carries one job after another at its own speed; what all links of a stage move together is
held to the stage's share of the host's memory. Stages of a pipeline copy alike, so each gets its
even share: that makes a stage's links independent of the others', exact where all are busy, and too
slow for a card that copies while the others rest.
"""

from __future__ import annotations

import msgspec

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.transfers import CopyJob

Link = tuple[Tier, Tier]


class LinkSpeeds(msgspec.Struct, frozen=True):
    """Of one stage, in bytes per second. ``host_share``: of the host's memory, for copies to and
    from the device together. ``job_seconds``: from ordering a job until its bytes move."""

    host_to_device: float
    device_to_host: float
    host_to_nvme: float
    nvme_to_host: float
    host_share: float
    job_seconds: float = 0.0


class StageLinks:
    """When each link of a stage is free again. Jobs must be ordered in the order of time."""

    def __init__(self, speeds: LinkSpeeds) -> None:
        self._speeds = {
            (Tier.HOST, Tier.DEVICE): speeds.host_to_device,
            (Tier.DEVICE, Tier.HOST): speeds.device_to_host,
            (Tier.HOST, Tier.NVME): speeds.host_to_nvme,
            (Tier.NVME, Tier.HOST): speeds.nvme_to_host,
        }
        self._free = dict.fromkeys(self._speeds, 0.0)
        self._host_free = 0.0
        self._host_share = speeds.host_share
        self._job_seconds = speeds.job_seconds
        self.busy_seconds = dict.fromkeys(self._speeds, 0.0)

    def copy(self, job: CopyJob, num_bytes: int, ordered: float) -> tuple[float, float]:
        """Order ``job`` at ``ordered``; (when it lands, seconds that it took by itself)."""
        link = (job.source, job.target)
        begin = max(ordered + self._job_seconds, self._free[link])
        end = begin + num_bytes / self._speeds[link]
        if Tier.DEVICE in link:
            self._host_free = max(self._host_free, begin) + num_bytes / self._host_share
            end = max(end, self._host_free)
        self._free[link] = end
        self.busy_seconds[link] += end - begin
        return end, end - begin
