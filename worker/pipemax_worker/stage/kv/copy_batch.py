"""Many copies by one call of the CUDA runtime.

PyTorch takes 33 to 40 us to issue a copy, more than a link takes for 1 MiB; and in between it needs
Python's lock, which the thread that computes holds. ``cudaMemcpyBatchAsync`` (CUDA 12.8) takes all
copies of a job at once, without the lock.
"""

from __future__ import annotations

import ctypes
import logging
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipemax_worker.errors import KVTierError

LOGGER = logging.getLogger(__name__)

FIRST_CUDA = (12, 8)
CUDA_13 = 13
"""From here on the call has no ``failIdx``."""

SOURCE_IN_STREAM_ORDER = 1
"""``cudaMemcpySrcAccessOrderStream``. Any other order may read a source before the forward that
fills it has ended."""

NOT_SUPPORTED = (36, 801)
"""``cudaErrorCallRequiresNewerDriver``, ``cudaErrorNotSupported``."""

Addresses = npt.NDArray[np.uint64]


class _Location(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int), ("id", ctypes.c_int))


class _Attributes(ctypes.Structure):
    """``cudaMemcpyAttributes``."""

    _fields_ = (
        ("source_access_order", ctypes.c_int),
        ("source_location", _Location),
        ("target_location", _Location),
        ("flags", ctypes.c_uint),
    )


@dataclass(frozen=True)
class CopyBatch:
    """``sizes[i]`` bytes from ``sources[i]`` to ``targets[i]``, in no order among themselves."""

    sources: Addresses
    targets: Addresses
    sizes: Addresses

    def split(self, num_parts: int) -> list[CopyBatch]:
        """Every ``num_parts``-th copy in each part; fewer parts where there are fewer copies."""
        return [
            CopyBatch(
                np.ascontiguousarray(self.sources[first::num_parts]),
                np.ascontiguousarray(self.targets[first::num_parts]),
                np.ascontiguousarray(self.sizes[first::num_parts]),
            )
            for first in range(max(1, min(num_parts, len(self.sizes))))
        ]


class BatchedCopies:
    """``runtime``: the CUDA runtime's library, of version ``cuda`` (major, minor)."""

    def __init__(self, runtime: Any, cuda: tuple[int, int]) -> None:
        self._runtime = runtime
        self._has_failed_index = cuda[0] < CUDA_13

    def issue(self, batch: CopyBatch, stream: int) -> bool:
        """Put ``batch`` on ``stream`` (its handle; not the default one) and return at once. False:
        this driver cannot do it, and nothing was copied. Raises KVTierError."""
        count = len(batch.sizes)
        if count == 0:
            return True
        attributes = _Attributes(source_access_order=SOURCE_IN_STREAM_ORDER)
        first_copy, failed = ctypes.c_size_t(0), ctypes.c_size_t(0)
        status = self._runtime.cudaMemcpyBatchAsync(
            *(_pointer(batch.targets), _pointer(batch.sources), _pointer(batch.sizes)),
            *(ctypes.c_size_t(count), ctypes.byref(attributes), ctypes.byref(first_copy)),
            ctypes.c_size_t(1),
            *((ctypes.byref(failed),) if self._has_failed_index else ()),
            ctypes.c_void_p(stream),
        )
        if status == 0:
            return True
        self._runtime.cudaGetLastError()  # or PyTorch would find it at its next call
        if status in NOT_SUPPORTED:
            LOGGER.warning("this driver copies no batches, single copies are used (slower)")
            return False
        raise KVTierError(f"copying {count} runs of KV failed with CUDA error {status}")


def _pointer(values: Addresses) -> ctypes.c_void_p:
    assert values.dtype == np.uint64
    assert values.flags.c_contiguous
    return ctypes.c_void_p(values.ctypes.data)


@cache
def load_batched_copies() -> BatchedCopies | None:
    """With the CUDA runtime that PyTorch has loaded; None where it is too old for it."""
    cuda = _cuda_version(torch.version.cuda)
    if cuda < FIRST_CUDA:
        return None
    try:
        runtime = ctypes.CDLL(f"libcudart.so.{cuda[0]}")
        runtime.cudaMemcpyBatchAsync.restype = ctypes.c_int
    except (OSError, AttributeError) as error:
        LOGGER.warning("KV is copied run by run (slower): %s", error)
        return None
    return BatchedCopies(runtime, cuda)


def _cuda_version(text: str | None) -> tuple[int, int]:
    major, minor = (text or "0.0").split(".")[:2]
    return int(major), int(minor)
