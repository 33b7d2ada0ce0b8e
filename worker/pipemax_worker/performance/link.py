"""Measured bandwidth of the links between tiers."""

from __future__ import annotations

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.performance.hardware import HardwareProfile

LINKS = (
    (Tier.HOST, Tier.DEVICE),
    (Tier.DEVICE, Tier.HOST),
    (Tier.HOST, Tier.NVME),
    (Tier.NVME, Tier.HOST),
)

_DECAY = 0.95
_PRIOR_SECONDS = 1e-3


class LinkEstimator:
    """Bytes per second on each link: decayed bytes over decayed seconds of completed copies.

    Sums rather than a mean of rates, so that a small copy, all latency, counts for as little as it
    moved. The profile's nominal rate stands in for the first millisecond of copies.
    """

    def __init__(self, profile: HardwareProfile) -> None:
        self._seconds = dict.fromkeys(LINKS, _PRIOR_SECONDS)
        self._bytes = {link: profile.link_bandwidth(*link) * _PRIOR_SECONDS for link in LINKS}

    def observe(self, source: Tier, target: Tier, num_bytes: int, seconds: float) -> None:
        """Take one completed copy of one stage. Copies without a duration teach nothing."""
        if num_bytes <= 0 or seconds <= 0.0:
            return
        link = (source, target)
        self._bytes[link] = self._bytes[link] * _DECAY + num_bytes
        self._seconds[link] = self._seconds[link] * _DECAY + seconds

    def bandwidth(self, source: Tier, target: Tier) -> float:
        """Bytes per second that one stage gets from ``source`` to ``target``."""
        return self._bytes[source, target] / self._seconds[source, target]

    def copy_seconds(self, source: Tier, target: Tier, num_bytes: int) -> float:
        """Predicted seconds for ``num_bytes`` on one stage's link."""
        return num_bytes / self.bandwidth(source, target)
