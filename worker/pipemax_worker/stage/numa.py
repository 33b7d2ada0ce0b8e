"""Keeps a stage on the processors beside its GPU.

On a machine of several NUMA nodes a card hangs off one of them: pinned memory that was first
touched from there, and threads that run there, spare its copies the way between the sockets.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

SYSFS = Path("/sys")
_ADDRESS_BYTES = 32


def stay_beside(device: torch.device, sysfs: Path = SYSFS) -> frozenset[int] | None:
    """Bind this thread, and those that it will start, to the processors of the GPU's NUMA node, as
    far as the process may use them. Returns them; None where nothing is known or nothing is gained.
    """
    try:
        beside = processors_beside(pci_address(device), sysfs)
    except (OSError, ValueError):
        return None  # a container or a virtual machine need not say
    allowed = os.sched_getaffinity(0)
    chosen = frozenset(beside & allowed)
    if not chosen or chosen == allowed:
        return None
    os.sched_setaffinity(0, chosen)
    return chosen


def pci_address(device: torch.device) -> str:
    """As sysfs names it, such as ``0000:3b:00.0``. Raises OSError if the driver does not say."""
    cuda = ctypes.CDLL("libcuda.so.1")
    handle, name = ctypes.c_int(0), ctypes.create_string_buffer(_ADDRESS_BYTES)
    if cuda.cuDeviceGet(ctypes.byref(handle), device.index or 0) != 0:
        raise OSError(f"the CUDA driver knows no {device}")
    if cuda.cuDeviceGetPCIBusId(name, _ADDRESS_BYTES, handle) != 0:
        raise OSError(f"the CUDA driver has no PCI address of {device}")
    return name.value.decode("ascii").lower()


def processors_beside(address: str, sysfs: Path) -> set[int]:
    """Raises OSError or ValueError if sysfs does not say; empty if the card belongs to no node."""
    node = int((sysfs / "bus/pci/devices" / address / "numa_node").read_text())
    if node < 0:
        return set()
    return parse_list((sysfs / f"devices/system/node/node{node}/cpulist").read_text())


def parse_list(text: str) -> set[int]:
    """``0-3,8`` -> 0, 1, 2, 3, 8."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        numbers |= set(range(int(first), int(last or first) + 1))
    return numbers
