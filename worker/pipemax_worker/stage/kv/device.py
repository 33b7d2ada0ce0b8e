"""The device tier: the KV slots that a stage's attention reads and writes."""

from __future__ import annotations

import torch

from pipemax_worker.contract.geometry import KVGeometry
from pipemax_worker.errors import KVTierError
from pipemax_worker.stage.kv.memory import allocate_rows

KV_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "fp8_e4m3": torch.float8_e4m3fn,
}


class DeviceKVCache:
    """One allocation of this stage's device slots, seen twice.

    rows      ``[num_slots + 1, slot_bytes]`` uint8: what copies move.
    blocks    ``[num_slots + 1, num_layers, 2, block_tokens, num_kv_heads, head_dim]`` of the KV
              dtype: what attention uses, a strided view without scales and padding.

    The last slot is scratch: no block is ever there; rows that only pad a step write to it.

    Raises KVTierError when the device has no room for it.
    """

    def __init__(self, geometry: KVGeometry, stage: int, device: torch.device) -> None:
        self.rows = _allocate(geometry.num_device_slots + 1, geometry.slot_bytes(stage), device)
        self.blocks = _typed_view(self.rows, geometry, stage)

    @property
    def num_slots(self) -> int:
        return self.rows.shape[0] - 1


def _allocate(num_slots: int, slot_bytes: int, device: torch.device) -> torch.Tensor:
    if device.type == "cpu":
        return allocate_rows(num_slots, slot_bytes, "device tier")
    try:
        return torch.zeros(num_slots, slot_bytes, dtype=torch.uint8, device=device)
    except torch.OutOfMemoryError as error:
        raise KVTierError(
            f"device tier: {num_slots * slot_bytes} bytes for {num_slots} slots do not fit on "
            f"{device} ({error}); lower engine.memoryFraction or engine.deviceKvCache"
        ) from error


def _typed_view(rows: torch.Tensor, geometry: KVGeometry, stage: int) -> torch.Tensor:
    dtype = KV_DTYPES[geometry.kv_dtype]
    shape = (
        geometry.layers_of_stage[stage],
        2,
        geometry.block_tokens,
        geometry.num_kv_heads,
        geometry.head_dim,
    )
    num_elements = (geometry.payload_bytes(stage) - geometry.scale_bytes) // dtype.itemsize
    payload = rows.view(dtype)[:, :num_elements]  # [num_slots, num_elements]
    return payload.view(rows.shape[0], *shape)
