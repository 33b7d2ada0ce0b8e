"""The real NVML of a real GPU: power and energy belong together."""

from __future__ import annotations

import time

import pynvml
import pytest
import torch
from pipemax_worker.contract.clock import MonotonicClock
from pipemax_worker.pipeline.gpus import gpu_uuids
from pipemax_worker.telemetry.energy_meter import EnergyMeter

SECONDS = 8.0
PATIENCE_SECONDS = 30.0


def test_a_busy_gpu_draws_what_its_energy_says() -> None:
    uuid, said = gpu_uuids()[0], list[str]()
    matrix = torch.randn(8192, 8192, device="cuda:0", dtype=torch.bfloat16)
    with EnergyMeter([uuid], MonotonicClock(), said.append) as meter:
        end = time.monotonic() + PATIENCE_SECONDS
        while meter.readings()[0].watts is None:
            assert time.monotonic() < end, said
            time.sleep(0.05)
        watts, start = [], meter.totals().joules
        first = time.monotonic()
        while time.monotonic() < first + SECONDS:
            for _ in range(20):
                matrix @ matrix
            torch.cuda.synchronize()
            watts.append(meter.readings()[0].watts or 0.0)
        spent = time.monotonic() - first
        joules = meter.totals().joules - start
    assert said == []
    assert joules / spent == pytest.approx(sum(watts) / len(watts), rel=0.25), (joules, watts)
    pynvml.nvmlInit()
    limit = pynvml.nvmlDeviceGetEnforcedPowerLimit(pynvml.nvmlDeviceGetHandleByUUID(uuid)) / 1e3
    assert 20 < max(watts) < 1.3 * limit
