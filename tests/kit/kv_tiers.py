"""Small KV tiers on the CPU, with contents that tell every slot from every other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from pipemax_worker.contract.geometry import KVGeometry, Tier
from pipemax_worker.contract.transfers import CopyJob, pack_int32
from pipemax_worker.stage.kv.device import DeviceKVCache
from pipemax_worker.stage.kv.host import HostKVCache
from pipemax_worker.stage.kv.nvme import NVMeKVFile

CPU = torch.device("cpu")


def make_geometry(
    device: int = 6, host: int = 8, nvme: int = 10, layers: tuple[int, ...] = (2, 1)
) -> KVGeometry:
    """Two stages; a slot of the first has 4,096 bytes of payload, one of the second is padded."""
    return KVGeometry(
        block_tokens=8,
        kv_dtype="float32",
        num_kv_heads=2,
        head_dim=16,
        layers_of_stage=layers,
        num_device_slots=device,
        num_host_slots=host,
        num_nvme_slots=nvme,
    )


def make_tiers(
    folder: Path, geometry: KVGeometry | None = None, device_name: str = "cpu"
) -> tuple[DeviceKVCache, HostKVCache, NVMeKVFile]:
    geometry = geometry or make_geometry()
    device = DeviceKVCache(geometry, 0, torch.device(device_name))
    host = HostKVCache(geometry, 0, pinned=device.rows.is_cuda)
    nvme = NVMeKVFile(folder / "stage-0.kv", geometry.num_nvme_slots, geometry.slot_bytes(0))
    return device, host, nvme


def fill_with_random_bytes(rows: torch.Tensor, seed: int) -> torch.Tensor:
    """Fill ``rows`` [num_slots, slot_bytes] and return a copy of what is in them."""
    generator = torch.Generator().manual_seed(seed)
    contents = torch.randint(0, 256, rows.shape, generator=generator, dtype=torch.uint8)
    rows.copy_(contents)
    return contents


def copy_job(
    job_id: int, source: Tier, target: Tier, sources: Sequence[int], targets: Sequence[int]
) -> CopyJob:
    return CopyJob(job_id, source, target, pack_int32(sources), pack_int32(targets))
