"""Counting GPUs without torch, against a stand-in for the CUDA driver's library."""

import ctypes
from collections.abc import Callable, Iterator

import pytest
from pipemax_worker.pipeline import gpus


class FakeCudaDriver:
    """Two GPUs of 24 and 32 GB; the functions get the same ctypes arguments as the real ones."""

    def __init__(self, init_status: int = 0) -> None:
        self.init_status = init_status

    def cuInit(self, flags: int) -> int:
        return self.init_status

    def cuDeviceGetCount(self, count: object) -> int:
        count._obj.value = 2  # type: ignore[attr-defined]
        return 0

    def cuDeviceGet(self, device: object, ordinal: int) -> int:
        device._obj.value = ordinal  # type: ignore[attr-defined]
        return 0

    def cuDeviceTotalMem_v2(self, total: object, device: ctypes.c_int) -> int:
        total._obj.value = (24, 32)[device.value] * 10**9  # type: ignore[attr-defined]
        return 0

    def cuDeviceGetUuid_v2(self, raw: object, device: ctypes.c_int) -> int:
        if device.value == 1:
            return 999
        raw._obj[:] = range(16)  # type: ignore[attr-defined]
        return 0


@pytest.fixture
def load_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[object], None]]:
    def use(driver: object) -> None:
        def load(name: str) -> object:
            if driver is None:
                raise OSError(f"{name}: cannot open shared object file")
            return driver

        monkeypatch.setattr(gpus.ctypes, "CDLL", load)

    for cached in (gpus.gpu_memory_bytes, gpus.gpu_uuids):
        cached.cache_clear()
    yield use
    for cached in (gpus.gpu_memory_bytes, gpus.gpu_uuids):
        cached.cache_clear()


def test_memory_of_each_gpu(load_library: Callable[[object], None]) -> None:
    load_library(FakeCudaDriver())
    assert gpus.gpu_memory_bytes() == (24 * 10**9, 32 * 10**9)
    assert gpus.count_gpus() == 2


def test_no_driver_no_gpus(load_library: Callable[[object], None]) -> None:
    load_library(None)
    assert gpus.count_gpus() == 0


def test_a_driver_without_a_device(load_library: Callable[[object], None]) -> None:
    """``cuInit`` fails with CUDA_ERROR_NO_DEVICE where the driver is there and the card is not."""
    load_library(FakeCudaDriver(init_status=100))
    assert gpus.count_gpus() == 0


def test_uuids_as_nvidia_smi_writes_them(load_library: Callable[[object], None]) -> None:
    load_library(FakeCudaDriver())
    assert gpus.gpu_uuids() == ("GPU-00010203-0405-0607-0809-0a0b0c0d0e0f", "")
