import sys

import pytest
from pipemax_worker.errors import PreflightError
from pipemax_worker.planner.detection import meter
from pipemax_worker.planner.detection.cpu import CpuSpeeds, measure_cpu


def say(text: str) -> list[str]:
    return [sys.executable, "-c", f"print({text!r})"]


def test_the_meter_measures_what_it_names() -> None:
    rates = meter.measure(0.0, product_size=64, copy_bytes=1 << 16)
    assert set(rates) == {"flops", "read", "copy"}
    assert min(rates.values()) > 1e6


def test_all_stages_are_measured_at_once_and_the_mean_counts() -> None:
    speeds = measure_cpu(2, say('{"flops": 4.0, "read": 3.0, "copy": 2.0}'))
    assert speeds == CpuSpeeds(2, 4.0, 3.0, 2.0)


def test_the_programs_have_one_thread_each() -> None:
    threads = "os.environ['OMP_NUM_THREADS']"
    code = f'import os; print(\'{{"flops":\' + {threads} + \',"read":1.0,"copy":1.0}}\')'
    assert measure_cpu(1, [sys.executable, "-c", code]).flops == 1.0


def test_a_failure_is_told_with_its_words() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such processor')"]
    with pytest.raises(PreflightError, match="no such processor"):
        measure_cpu(1, command)
