"""What GPUs this process may use, asked of the CUDA driver without torch."""

from __future__ import annotations

import ctypes
import uuid
from functools import cache


@cache
def gpu_memory_bytes() -> tuple[int, ...]:
    """Total memory of each visible GPU; empty without a GPU or its driver.

    ``CUDA_VISIBLE_DEVICES`` holds, and number k is ``cuda:k``. No CUDA context is made.
    """
    return tuple(_total_memory_bytes(cuda, ordinal) for cuda, ordinal in _visible_gpus())


@cache
def gpu_uuids() -> tuple[str, ...]:
    """``GPU-...`` of each visible GPU, in the same order; an empty text if the driver fails."""
    return tuple(_uuid(cuda, ordinal) for cuda, ordinal in _visible_gpus())


def count_gpus() -> int:
    """How many GPUs stages can use."""
    return len(gpu_memory_bytes())


def _visible_gpus() -> list[tuple[ctypes.CDLL, int]]:
    """The CUDA driver, once for each of its GPUs."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int(0)
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    return [(cuda, ordinal) for ordinal in range(count.value)]


def _uuid(cuda: ctypes.CDLL, ordinal: int) -> str:
    device, raw = ctypes.c_int(0), (ctypes.c_ubyte * 16)()
    if cuda.cuDeviceGet(ctypes.byref(device), ordinal) != 0:
        return ""
    if cuda.cuDeviceGetUuid_v2(ctypes.byref(raw), device) != 0:
        return ""
    return f"GPU-{uuid.UUID(bytes=bytes(raw))}"


def _total_memory_bytes(cuda: ctypes.CDLL, ordinal: int) -> int:
    device, total = ctypes.c_int(0), ctypes.c_size_t(0)
    if cuda.cuDeviceGet(ctypes.byref(device), ordinal) != 0:
        return 0
    if cuda.cuDeviceTotalMem_v2(ctypes.byref(total), device) != 0:
        return 0
    return total.value
