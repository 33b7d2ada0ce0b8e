"""The meter with a real sampler process over GPUs that are not there."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from kit.process_life import is_running
from pipemax_worker.contract.clock import MonotonicClock
from pipemax_worker.contract.energy import EnergyTotals
from pipemax_worker.telemetry.energy_meter import MAX_AGE_SECONDS, EnergyMeter

SAMPLER = (sys.executable, str(Path(__file__).parents[3] / "kit" / "fake_nvml_sampler.py"))
UUIDS = ("GPU-a", "GPU-b")


class ShiftedClock(MonotonicClock):
    """Real time, and what was added to it."""

    ahead_seconds = 0.0

    def now(self) -> float:
        return super().now() + self.ahead_seconds


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "nothing has come"
        time.sleep(0.01)


def test_power_energy_and_held_time_of_each_gpu() -> None:
    said: list[str] = []
    with EnergyMeter(UUIDS, MonotonicClock(), said.append, SAMPLER) as meter:
        assert [one.gpu for one in meter.readings()] == [0, 1]
        wait_for(lambda: meter.totals().joules > 10)
        first, second = meter.readings()
        assert first.watts == second.watts == 100.0
        assert first.joules is not None
        assert 0 < first.joules <= 100.0 * first.seconds
        totals = meter.totals()
        assert totals.gpu_seconds >= 2 * second.seconds
        process = meter._process
    assert process is not None
    assert not is_running(process.pid)
    assert said == []


def test_a_power_that_nobody_has_confirmed_lately_is_not_told() -> None:
    clock = ShiftedClock()
    with EnergyMeter(UUIDS, clock, lambda _: None, (*SAMPLER, "hang")) as meter:
        wait_for(lambda: meter.readings()[0].watts is not None)
        clock.ahead_seconds = MAX_AGE_SECONDS + 1
        reading = meter.readings()[0]
        assert (reading.watts, reading.joules) == (None, 0.0)
        assert reading.seconds > MAX_AGE_SECONDS


def test_a_machine_without_nvml_is_told_of_and_nothing_fails() -> None:
    said: list[str] = []
    with EnergyMeter(UUIDS, MonotonicClock(), said.append, (*SAMPLER, "no-driver")) as meter:
        wait_for(lambda: bool(said))
        assert said == ["energy is not measured: NVML: Driver Not Loaded"]
        assert meter.readings()[0].joules is None
        assert meter.totals().joules == 0
        assert meter.totals().gpu_seconds > 0, "GPUs are held all the same"


def test_a_sampler_that_cannot_be_started() -> None:
    said: list[str] = []
    with EnergyMeter(UUIDS, MonotonicClock(), said.append, ("/no/such/program",)) as meter:
        assert meter.totals().joules == 0
    assert "no/such/program" in said[0]


def test_a_cpu_has_no_meter() -> None:
    with EnergyMeter((), MonotonicClock(), lambda _: None, ("/no/such/program",)) as meter:
        assert meter.readings() == ()
        assert meter.totals() == EnergyTotals()
        assert not meter.has_gpus


def test_totals_add_up_and_know_their_rate() -> None:
    totals = EnergyTotals(100.0, 2.0) + EnergyTotals(50.0, 1.0)
    assert totals == EnergyTotals(150.0, 3.0)
    assert totals.tokens_per_joule(300) == 2.0
    assert EnergyTotals(gpu_seconds=1.0).tokens_per_joule(300) is None
    assert not EnergyTotals()


def test_a_sampler_whose_run_was_killed_ends_by_itself() -> None:
    with subprocess.Popen([*SAMPLER, *UUIDS], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"watts" in process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 0
