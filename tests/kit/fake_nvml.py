"""NVML's C library without a GPU, below the real bindings: their names, units and errors hold."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pynvml

SUCCESS = pynvml.NVML_SUCCESS


@dataclass
class FakeGpu:
    """energy_joules  of its counter; None: a GPU without one.
    watts          now.
    error          code that every question about it gets, SUCCESS if it answers.
    pcie_*         by NVML's number of the direction, and of the field.
    """

    uuid: str
    watts: float = 300.0
    energy_joules: float | None = 1000.0
    error: int = SUCCESS
    pcie_kb_per_second: dict[int, int] = field(default_factory=dict)
    pcie_bytes: dict[int, int] = field(default_factory=dict)
    pcie_value_type: int = pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
    handle: Any = field(default_factory=pynvml.struct_c_nvmlDevice_t)


class FakeNvml:
    """What ``ctypes`` would have loaded. ``init_error``: what initialising says."""

    def __init__(self, *gpus: FakeGpu, init_error: int = SUCCESS) -> None:
        self._gpus = gpus
        self._init_error = init_error
        self.before_each: Callable[[], None] = lambda: None

    def nvmlInitWithFlags(self, _flags: int) -> int:
        return self._init_error

    def nvmlDeviceGetHandleByUUID(self, uuid: Any, device: Any) -> int:
        self.before_each()
        for gpu in self._gpus:
            if gpu.uuid.encode() == uuid.value:
                device._obj.contents = gpu.handle
                return gpu.error
        return int(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetPowerUsage(self, device: Any, milliwatts: Any) -> int:
        gpu = self._find(device)
        milliwatts._obj.value = round(1e3 * gpu.watts)
        return gpu.error

    def nvmlDeviceGetTotalEnergyConsumption(self, device: Any, millijoules: Any) -> int:
        gpu = self._find(device)
        if gpu.energy_joules is None:
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        millijoules._obj.value = round(1e3 * gpu.energy_joules)
        return gpu.error

    def nvmlDeviceGetPcieThroughput(self, device: Any, counter: Any, kb_per_second: Any) -> int:
        gpu = self._find(device)
        number = int(getattr(counter, "value", counter))
        if number not in gpu.pcie_kb_per_second:
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        kb_per_second._obj.value = gpu.pcie_kb_per_second[number]
        return gpu.error

    def nvmlDeviceGetFieldValues(self, device: Any, count: Any, values: Any) -> int:
        gpu = self._find(device)
        for value in list(values._obj)[: count.value]:
            is_known = value.fieldId in gpu.pcie_bytes
            value.nvmlReturn = SUCCESS if is_known else pynvml.NVML_ERROR_NOT_SUPPORTED
            value.valueType = gpu.pcie_value_type
            value.value.ullVal = gpu.pcie_bytes.get(value.fieldId, 0)
        return gpu.error

    def nvmlErrorString(self, code: int) -> bytes:
        return f"error {code}".encode()

    def nvmlShutdown(self) -> int:
        return int(SUCCESS)

    def _find(self, device: Any) -> FakeGpu:
        self.before_each()
        address = ctypes.addressof(device.contents)
        return next(gpu for gpu in self._gpus if ctypes.addressof(gpu.handle) == address)


@contextlib.contextmanager
def nvml_of(library: FakeNvml | None) -> Iterator[Any]:
    """The real module pynvml over ``library``; None: this machine's own, if it has one."""
    before = pynvml.nvmlLib
    pynvml.nvmlLib = library
    pynvml._nvmlGetFunctionPointer_cache.clear()
    try:
        yield pynvml
    finally:
        pynvml.nvmlLib = before
        pynvml._nvmlGetFunctionPointer_cache.clear()
