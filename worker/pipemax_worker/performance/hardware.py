"""Nominal speeds of a machine: the prior of all estimates until the first measurements."""

from __future__ import annotations

import msgspec

from pipemax_worker.contract.geometry import Tier

_BYTES_PER_GB = 10**9


class HardwareProfile(msgspec.Struct, frozen=True):
    """One stage's device, its link to the host and the NVMe below.

    Bandwidths are what a stage gets while all stages copy at once, in bytes per second.
    ``step_overhead_seconds`` is a step's fixed cost: launches, sampling, the hop to the next stage;
    ``layer_overhead_seconds`` comes to it for each layer. ``tile_tokens``: what GEMM rows are
    padded to above one such tile, 0 for nothing.
    """

    name: str
    memory_bandwidth_bytes_per_second: float
    flops_per_second: float
    host_to_device_bytes_per_second: float
    device_to_host_bytes_per_second: float
    host_to_nvme_bytes_per_second: float
    nvme_to_host_bytes_per_second: float
    step_overhead_seconds: float
    layer_overhead_seconds: float = 0.0
    tile_tokens: int = 0

    def link_bandwidth(self, source: Tier, target: Tier) -> float:
        """Bytes per second from ``source`` to ``target``, which are neighbours."""
        return {
            (Tier.HOST, Tier.DEVICE): self.host_to_device_bytes_per_second,
            (Tier.DEVICE, Tier.HOST): self.device_to_host_bytes_per_second,
            (Tier.HOST, Tier.NVME): self.host_to_nvme_bytes_per_second,
            (Tier.NVME, Tier.HOST): self.nvme_to_host_bytes_per_second,
        }[source, target]


CPU_PROFILE = HardwareProfile(
    name="cpu",
    memory_bandwidth_bytes_per_second=10 * _BYTES_PER_GB,
    flops_per_second=50e9,
    host_to_device_bytes_per_second=4 * _BYTES_PER_GB,
    device_to_host_bytes_per_second=4 * _BYTES_PER_GB,
    host_to_nvme_bytes_per_second=0.5 * _BYTES_PER_GB,
    nvme_to_host_bytes_per_second=0.8 * _BYTES_PER_GB,
    step_overhead_seconds=2e-3,
)

# Between an RTX 4090 (1.0 TB/s, PCIe 4.0) and a 5090 (1.8 TB/s, PCIe 5.0), all cards copying.
GPU_PROFILE = HardwareProfile(
    name="gpu",
    memory_bandwidth_bytes_per_second=1200 * _BYTES_PER_GB,
    flops_per_second=150e12,
    host_to_device_bytes_per_second=20 * _BYTES_PER_GB,
    device_to_host_bytes_per_second=20 * _BYTES_PER_GB,
    host_to_nvme_bytes_per_second=0.5 * _BYTES_PER_GB,
    nvme_to_host_bytes_per_second=0.8 * _BYTES_PER_GB,
    step_overhead_seconds=1e-3,
)


def profile_for_device(device: str) -> HardwareProfile:
    """The default profile for a device named as torch names it (``cpu``, ``cuda:0``)."""
    return CPU_PROFILE if device.startswith("cpu") else GPU_PROFILE
