"""PCIe traffic of GPUs as NVML counts it, and how much of that is what packets take.

NVML counts everything that crosses the link: beside the bytes that are moved, their packets'
headers, and for each read from the host a request the other way. What plain copies of a known size
show (``calibrate``) turns its count into bytes moved.

Its side is its counters of bytes where the driver has them as 64-bit numbers (R570 and newer), else
the mean of its throughput, which it measures over 20 ms at a time, asked again and again. NVML
calls its unit KB; 1,000 bytes are taken for one.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BYTES_PER_KB = 1000
COPIES = Path(__file__).with_name("plain_copies.py")
CALIBRATION_SECONDS = 4.0


@dataclass(frozen=True)
class PcieBytes:
    """Of all GPUs together: a second, or since some time. NVML speaks from the GPU's side: it
    receives what is loaded."""

    received: float = 0.0
    sent: float = 0.0

    def __add__(self, other: PcieBytes) -> PcieBytes:
        return PcieBytes(self.received + other.received, self.sent + other.sent)


class ByteCounters:
    """NVML's counters of one GPU. ``read`` is None where the driver has none that can be used: one
    of 32 bits overflows ten times a second."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._fields = (
            nvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES,
            nvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES,
        )

    def read(self) -> PcieBytes | None:
        nvml = self._nvml
        try:
            values = nvml.nvmlDeviceGetFieldValues(self._handle, list(self._fields))
        except nvml.NVMLError:
            return None
        wide = nvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
        if any(one.nvmlReturn != nvml.NVML_SUCCESS or one.valueType != wide for one in values):
            return None
        received, sent = (float(one.value.ullVal) for one in values)
        return PcieBytes(received, sent)


@dataclass
class ThroughputSamples:
    """NVML's throughput of one GPU, as often as it can be asked, from ``start`` to ``stop``."""

    nvml: Any
    handle: Any
    received: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> PcieBytes:
        """Bytes a second. Raises ValueError if NVML has told nothing."""
        self._ended.set()
        self._thread.join()
        if not self.received:
            raise ValueError(
                "NVML has no PCIe throughput of this GPU (nvmlDeviceGetPcieThroughput)"
            )
        return PcieBytes(statistics.fmean(self.received), statistics.fmean(self.sent))

    def _sample(self) -> None:
        nvml = self.nvml
        is_first = True  # one is taken however short the work was
        while is_first or not self._ended.is_set():
            is_first = False
            try:
                received, sent = (
                    nvml.nvmlDeviceGetPcieThroughput(self.handle, direction)
                    for direction in (nvml.NVML_PCIE_UTIL_RX_BYTES, nvml.NVML_PCIE_UTIL_TX_BYTES)
                )
            except nvml.NVMLError:
                return
            self.received.append(BYTES_PER_KB * received)
            self.sent.append(BYTES_PER_KB * sent)


def measure_pcie(
    nvml: Any, uuids: Sequence[str], work: Callable[[], float]
) -> tuple[PcieBytes, str]:
    """Bytes a second of the GPUs while ``work`` runs, which returns its seconds; and how they were
    measured. Raises ValueError if NVML does not tell."""
    handles = [nvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids]
    counters = [ByteCounters(nvml, handle) for handle in handles]
    before = [one.read() for one in counters]
    if None not in before:
        seconds = work()
        whole = PcieBytes()
        for start, counter in zip(before, counters, strict=True):
            end = counter.read()
            if start is None or end is None:
                raise ValueError("NVML's byte counters have gone")
            whole += PcieBytes(end.received - start.received, end.sent - start.sent)
        return PcieBytes(whole.received / seconds, whole.sent / seconds), "its byte counters"
    samples = [ThroughputSamples(nvml, handle) for handle in handles]
    for one in samples:
        one.start()
    work()
    total = sum((one.stop() for one in samples), PcieBytes())
    return total, f"{len(samples[0].received)} samples of its throughput"


@dataclass(frozen=True)
class PacketOverhead:
    """What NVML counts each way for a byte loaded, and for a byte stored."""

    per_loaded: PcieBytes
    per_stored: PcieBytes

    def moved(self, counted: PcieBytes) -> PcieBytes:
        """The bytes loaded (``received``) and stored (``sent``) for which NVML counts ``counted``.

        Raises ValueError if the copies cannot be told apart by what it counted of them.
        """
        a, b = self.per_loaded.received, self.per_stored.received
        c, d = self.per_loaded.sent, self.per_stored.sent
        determinant = a * d - b * c
        if determinant <= 0:
            raise ValueError("NVML counted the same for loads as for stores")
        loaded = (counted.received * d - counted.sent * b) / determinant
        stored = (counted.sent * a - counted.received * c) / determinant
        return PcieBytes(loaded, stored)


class PlainCopies:
    """Another process that copies ``in`` or ``out`` on the first GPU; it is ready, and waits."""

    def __init__(self, direction: str, seconds: float) -> None:
        self._name = f"{COPIES.name} {direction}"
        command = [sys.executable, str(COPIES), direction, f"{seconds}"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def run(self) -> tuple[float, float]:
        """Bytes and seconds. Raises ValueError if it fails."""
        told, _ = self._process.communicate("")
        words = told.split()
        if self._process.returncode != 0 or len(words) != 2:
            raise ValueError(f"{self._name} ended with exit code {self._process.returncode}")
        return float(words[0]), float(words[1])


StartCopies = Callable[[str, float], Callable[[], tuple[float, float]]]
"""Direction and seconds: what runs the copies, once it is ready to."""


def start_plain_copies(direction: str, seconds: float) -> Callable[[], tuple[float, float]]:
    return PlainCopies(direction, seconds).run


def calibrate(
    nvml: Any, uuid: str, start_copies: StartCopies = start_plain_copies
) -> PacketOverhead:
    """By plain copies in and then out; nothing is counted until they are ready."""

    def count(direction: str) -> PcieBytes:
        run_copies = start_copies(direction, CALIBRATION_SECONDS)
        num_bytes = seconds = 0.0

        def work() -> float:
            nonlocal num_bytes, seconds
            num_bytes, seconds = run_copies()
            return seconds

        counted, _ = measure_pcie(nvml, [uuid], work)
        rate = num_bytes / seconds
        return PcieBytes(counted.received / rate, counted.sent / rate)

    return PacketOverhead(count("in"), count("out"))
