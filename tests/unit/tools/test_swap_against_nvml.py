"""The comparison with NVML's PCIe counters, over the real bindings and a library without a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest
from kit.fake_nvml import FakeGpu, FakeNvml, nvml_of
from kit.progress import STATISTICS
from nvml_pcie import PacketOverhead, PcieBytes, calibrate, measure_pcie, start_plain_copies
from swap_against_nvml import Comparison, compare, swapped

RX, TX = pynvml.NVML_PCIE_UTIL_RX_BYTES, pynvml.NVML_PCIE_UTIL_TX_BYTES
RX_BYTES = pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES
TX_BYTES = pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES


def measure(*gpus: FakeGpu) -> tuple[PcieBytes, str]:
    """While each GPU moves 4 MB in and 2 MB out in what is taken for two seconds."""

    def work() -> float:
        for gpu in gpus:
            for number, moved in ((RX_BYTES, 4_000_000), (TX_BYTES, 2_000_000)):
                if number in gpu.pcie_bytes:
                    gpu.pcie_bytes[number] += moved
        time.sleep(0.05)
        return 2.0

    with nvml_of(FakeNvml(*gpus)) as nvml:
        return measure_pcie(nvml, [gpu.uuid for gpu in gpus], work)


def test_counters_of_bytes_are_taken_where_there_are_any() -> None:
    gpus = [FakeGpu(name, pcie_bytes={RX_BYTES: 7, TX_BYTES: 9}) for name in ("GPU-a", "GPU-b")]
    assert measure(*gpus) == (PcieBytes(4e6, 2e6), "its byte counters")


@pytest.mark.parametrize("value_type", [pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, None])
def test_else_its_throughput_is_asked_again_and_again(value_type: int | None) -> None:
    gpu = FakeGpu("GPU-a", pcie_kb_per_second={RX: 300, TX: 200})
    if value_type is not None:
        gpu.pcie_bytes, gpu.pcie_value_type = {RX_BYTES: 1, TX_BYTES: 1}, value_type
    told, how = measure(gpu)
    assert told == PcieBytes(300_000, 200_000)
    assert how.endswith("samples of its throughput")


def test_a_gpu_that_tells_neither() -> None:
    with pytest.raises(ValueError, match="NVML has no PCIe throughput"):
        measure(FakeGpu("GPU-a"))


def test_loads_are_received_and_stores_are_sent() -> None:
    ours = swapped(STATISTICS)
    assert ours == PcieBytes(3 << 20, 1 << 20)
    loaded, stored = compare(ours, PcieBytes(3.3 * 2**20, 0.5 * 2**20))
    assert (loaded.direction, loaded.is_within(0.1)) == ("host to device", True)
    assert (stored.direction, stored.is_within(0.1)) == ("device to host", False)
    assert loaded.describe() == "host to device: ours 3.0 MiB/s, NVML's 3.3 MiB/s, ratio 0.909"


def test_nothing_by_nvml_is_no_agreement() -> None:
    assert not Comparison("host to device", 5.0, 0.0).is_within(0.1)


def test_plain_copies_show_what_packets_take() -> None:
    gpu = FakeGpu("GPU-a", pcie_bytes={RX_BYTES: 0, TX_BYTES: 0})
    counts = {"in": (1.1, 0.1), "out": (0.02, 1.2)}

    def start(direction: str, seconds: float) -> Callable[[], tuple[float, float]]:
        gpu.pcie_bytes[RX_BYTES] += 10**9  # what starting moves is no copy

        def run() -> tuple[float, float]:
            received, sent = counts[direction]
            gpu.pcie_bytes[RX_BYTES] += int(received * 1e9)
            gpu.pcie_bytes[TX_BYTES] += int(sent * 1e9)
            return 1e9, seconds

        return run

    with nvml_of(FakeNvml(gpu)) as nvml:
        overhead = calibrate(nvml, gpu.uuid, start)
    assert overhead.per_loaded == PcieBytes(pytest.approx(1.1), pytest.approx(0.1))
    assert overhead.per_stored == PcieBytes(pytest.approx(0.02), pytest.approx(1.2))
    # 30 loaded and 5 stored are 33.1 received and 9 sent: the stores would seem 45 % off.
    moved = overhead.moved(PcieBytes(33.1, 9.0))
    assert (moved.received, moved.sent) == (pytest.approx(30.0), pytest.approx(5.0))


def test_the_copying_process_waits_until_it_is_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "copies.py"
    program.write_text(
        "import sys\nprint('ready', flush=True)\nsys.stdin.read()\n"
        "print(*(('512', sys.argv[2]) if sys.argv[1] == 'in' else ()))\n"
    )
    monkeypatch.setattr("nvml_pcie.COPIES", program)
    assert start_plain_copies("in", 4.0)() == (512.0, 4.0)
    with pytest.raises(ValueError, match=r"copies.py out ended with exit code 0"):
        start_plain_copies("out", 4.0)()


def test_counts_that_tell_nothing_apart() -> None:
    overhead = PacketOverhead(PcieBytes(1.0, 1.0), PcieBytes(1.0, 1.0))
    with pytest.raises(ValueError, match="same for loads"):
        overhead.moved(PcieBytes(1.0, 1.0))
