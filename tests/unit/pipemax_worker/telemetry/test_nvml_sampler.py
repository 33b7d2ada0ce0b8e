"""The sampler over the real bindings and a library that is not there: counters, power, errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pynvml
import pytest
from kit.fake_nvml import SUCCESS, FakeGpu, FakeNvml, nvml_of
from pipemax_worker.telemetry.energy_meter import SAMPLER
from pipemax_worker.telemetry.nvml_sampler import GpuSampler, run

UUID = "GPU-1b2f"


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu(UUID)


@pytest.fixture
def nvml(gpu: FakeGpu) -> Iterator[Any]:
    with nvml_of(FakeNvml(gpu)) as nvml:
        yield nvml


def test_joules_are_the_counters_from_the_first_sample_on(gpu: FakeGpu, nvml: Any) -> None:
    sampler = GpuSampler(nvml, UUID)
    assert sampler.sample(0.0) == 300.0
    assert sampler.joules == 0.0
    gpu.energy_joules, gpu.watts = 1310.5, 250.0
    assert sampler.sample(1.0) == 250.0
    assert sampler.joules == 310.5


def test_a_driver_that_was_loaded_anew_counts_from_zero(gpu: FakeGpu, nvml: Any) -> None:
    sampler = GpuSampler(nvml, UUID)
    sampler.sample(0.0)
    gpu.energy_joules = 40.0
    sampler.sample(1.0)
    assert sampler.joules == 40.0


def test_without_a_counter_power_is_integrated(gpu: FakeGpu, nvml: Any) -> None:
    gpu.energy_joules = None
    sampler = GpuSampler(nvml, UUID)
    sampler.sample(10.0)
    gpu.watts = 100.0
    sampler.sample(12.0)
    assert sampler.joules == pytest.approx(2 * (300 + 100) / 2)


def test_a_gpu_that_does_not_answer_for_a_while(gpu: FakeGpu, nvml: Any) -> None:
    counted, integrated = GpuSampler(nvml, UUID), GpuSampler(nvml, UUID)
    for sampler in (counted, integrated):
        sampler.sample(0.0)
    integrated._has_counter = False
    gpu.error = pynvml.NVML_ERROR_GPU_IS_LOST
    assert counted.sample(1.0) is None
    assert integrated.sample(1.0) is None
    gpu.error, gpu.energy_joules = SUCCESS, 1600.0
    assert counted.sample(2.0) == 300.0
    assert integrated.sample(2.0) == 300.0
    assert counted.joules == 600.0, "the counter went on"
    assert integrated.joules == 0.0, "nobody has seen what it drew"


def test_a_gpu_that_nvml_does_not_know_has_no_power(nvml: Any) -> None:
    sampler = GpuSampler(nvml, "GPU-of-somebody-else")
    assert sampler.sample(0.0) is None
    assert sampler.joules == 0.0


def lines_of(library: FakeNvml, num_lines: int) -> list[dict[str, Any]]:
    stream, sleeps = StringIO(), iter(range(num_lines - 1))

    def sleep(_: float) -> None:
        if next(sleeps, None) is None:
            raise BrokenPipeError

    with nvml_of(library) as nvml:
        run([UUID], stream, lambda: nvml, sleep, now=lambda: 0.0)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_a_second_until_nobody_listens(gpu: FakeGpu) -> None:
    lines = lines_of(FakeNvml(gpu), 2)
    assert lines == [{"gpus": [{"watts": 300.0, "joules": 0.0}]}] * 2


def test_a_machine_without_a_driver_is_told_of_once(gpu: FakeGpu) -> None:
    library = FakeNvml(gpu, init_error=pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    assert lines_of(library, 9) == [{"error": "NVML: Driver Not Loaded"}]


def test_without_the_bindings() -> None:
    def load() -> Any:
        raise ImportError("no module")

    stream = StringIO()
    run([UUID], stream, load)
    assert "nvidia-ml-py" in json.loads(stream.getvalue())["error"]


def test_the_program_itself_says_what_this_machine_has() -> None:
    """Here there is no NVML, or one that does not know the GPU; either way it ends by itself once
    nobody reads."""
    with subprocess.Popen([*SAMPLER, UUID], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        process.stdout.close()
        assert process.wait(30) == 0
    assert "error" in line or line == {"gpus": [{"watts": None, "joules": 0.0}]}
    assert SAMPLER[0] == sys.executable
