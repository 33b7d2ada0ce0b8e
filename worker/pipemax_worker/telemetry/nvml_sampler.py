"""A program that says every second what its GPUs draw, until nobody listens any more.

A program of its own because a call into the driver of a GPU that has fallen off the bus can hang
for ever, and a process with such a thread does not end (docs/decisions/0009). Each line that it
writes is JSON: ``{"gpus": [{"watts": 310.5, "joules": 1204.0}, ...]}`` in the order of its
arguments, GPUs' UUIDs; or once ``{"error": ...}`` where there is no NVML.

Joules come from the GPU's own counter where it has one (from Volta on), else from power, trapezoid
by trapezoid. Watts are an average of the driver's, over one second on most GPUs.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TextIO

PERIOD_SECONDS = 1.0


class GpuSampler:
    """One GPU. ``nvml``: the module pynvml, its library initialised.

    joules   since the first sample. What passes while NVML does not answer is counted where the GPU
             has a counter, and not where it has none.
    """

    def __init__(self, nvml: Any, uuid: str) -> None:
        self._nvml = nvml
        self._uuid = uuid
        self._handle: Any = None
        self._has_counter = True
        self._last_counted: float | None = None
        self._last_power: tuple[float, float] | None = None  # seconds, watts
        self.joules = 0.0

    def sample(self, now_seconds: float) -> float | None:
        """Take a sample; returns the watts, None if NVML does not tell, whatever its error."""
        watts = self._read_power()
        counted = self._read_counter()
        if counted is not None:
            self.joules += self._since_last(counted)
            self._last_counted = counted
        elif watts is not None and not self._has_counter and self._last_power is not None:
            last_seconds, last_watts = self._last_power
            self.joules += (now_seconds - last_seconds) * (watts + last_watts) / 2
        self._last_power = None if watts is None else (now_seconds, watts)
        return watts

    def _since_last(self, counted: float) -> float:
        """A counter that went back was set to zero, by a driver that was loaded anew."""
        if self._last_counted is None:
            return 0.0
        return counted if counted < self._last_counted else counted - self._last_counted

    def _read_power(self) -> float | None:
        try:
            if self._handle is None:
                self._handle = self._nvml.nvmlDeviceGetHandleByUUID(self._uuid)
            return float(self._nvml.nvmlDeviceGetPowerUsage(self._handle)) / 1e3
        except self._nvml.NVMLError:
            return None

    def _read_counter(self) -> float | None:
        if not self._has_counter or self._handle is None:
            return None
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except (self._nvml.NVMLError_NotSupported, self._nvml.NVMLError_FunctionNotFound):
            self._has_counter = False
        except self._nvml.NVMLError:
            pass
        return None


def open_nvml(load: Callable[[], Any]) -> tuple[Any, str]:
    """The initialised module, or None and why not."""
    try:
        nvml = load()
    except ImportError:
        return None, "NVML's bindings are not installed (nvidia-ml-py)"
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return None, f"NVML: {error}"
    return nvml, ""


def run(
    uuids: Sequence[str],
    stream: TextIO,
    load: Callable[[], Any] = lambda: importlib.import_module("pynvml"),
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Write a line every second until ``stream`` is closed at its other end."""
    nvml, fault = open_nvml(load)
    try:
        if nvml is None:
            print(json.dumps({"error": fault}), file=stream, flush=True)
            return
        gpus = [GpuSampler(nvml, uuid) for uuid in uuids]
        while True:
            drawn = [{"watts": gpu.sample(now()), "joules": gpu.joules} for gpu in gpus]
            print(json.dumps({"gpus": drawn}), file=stream, flush=True)
            sleep(PERIOD_SECONDS)
    except BrokenPipeError:
        return


if __name__ == "__main__":
    run(sys.argv[1:], sys.stdout)
    # What the pipe did not take must not be tried again at exit.
    sys.stdout = None
