"""A run's energy in ledger, manifest, last word, progress and summary, with a fake NVML."""

from __future__ import annotations

import json
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from kit.fake_run import FakeSessions
from kit.jobs import JobFolder, text_lines
from kit.progress import SNAPSHOT
from kit.store import FailingStore
from pipemax_worker.contract.clock import MonotonicClock
from pipemax_worker.contract.energy import EnergyTotals
from pipemax_worker.dataset.energy_ledger import ENERGY_PREFIX, EnergyNote, read_energy
from pipemax_worker.errors import StageDiedError
from pipemax_worker.runner import job_energy
from pipemax_worker.runner import run as run_module
from pipemax_worker.runner.job_energy import JobEnergy
from pipemax_worker.runner.options import RunOptions
from pipemax_worker.runner.run import run_job
from pipemax_worker.runner.termination import TERMINATION_LOG_VARIABLE
from pipemax_worker.telemetry.energy_meter import EnergyMeter

SAMPLER = (sys.executable, str(Path(__file__).parents[3] / "kit" / "fake_nvml_sampler.py"))


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch, sessions: FakeSessions) -> FakeSessions:
    """Runs of this test hold two GPUs that draw 100 W each, and begin when that was measured for
    some tenths of a second."""
    meters: list[EnergyMeter] = []

    def make_meter(*arguments: Any) -> EnergyMeter:
        meters.append(EnergyMeter(*arguments, sampler=SAMPLER))
        return meters[-1]

    def wait_for_readings(_: object) -> None:
        end = time.monotonic() + 60
        while meters[-1].totals().gpu_seconds < 1.5:
            assert time.monotonic() < end, "the sampler says nothing"
            time.sleep(0.01)

    monkeypatch.setattr(run_module, "find_stage_gpus", lambda _: ("GPU-a", "GPU-b"))
    monkeypatch.setattr(run_module, "EnergyMeter", make_meter)
    sessions.on_open = wait_for_readings
    return sessions


def test_a_jobs_energy_adds_up_over_attempts_and_stands_in_its_manifest(
    job: JobFolder, two_gpus: FakeSessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TERMINATION_LOG_VARIABLE, str(tmp_path / "last-word"))
    job.write_input(text_lines(6))
    two_gpus.engine.failure, two_gpus.engine.fails_after = StageDiedError("gone"), 1
    with pytest.raises(StageDiedError):
        run_job(job.write(), RunOptions(quiet=True), StringIO())
    (first,) = (job.output / ENERGY_PREFIX).iterdir()
    # A run of another worker, or of this node's worker before.
    (job.output / ENERGY_PREFIX / "other-1-2-3.5000-7200").write_text("{}\n")

    two_gpus.engine.failure = None
    monkeypatch.setattr(run_module, "name_this_worker", lambda: "second-1-2-3")
    summary = run_job(job.write(), RunOptions(quiet=True), StringIO())
    assert " generated tokens/J" in summary
    assert "5" in summary.split("  energy ")[1]
    assert "by all runs of the job" in summary
    energy = json.loads((job.output / "manifest.json").read_text())["energy"]
    joules = sum(
        int(path.name.rpartition(".")[2].split("-")[0])
        for path in (job.output / ENERGY_PREFIX).iterdir()
    )
    assert energy["joules"] == joules >= 5000 + int(first.name.rpartition(".")[2].split("-")[0])
    assert energy["gpu_seconds"] >= 7202
    last_word = json.loads((tmp_path / "last-word").read_text())
    assert last_word["energy"]["joules"] == joules
    # A finished job tells it again.
    (tmp_path / "last-word").unlink()
    run_job(job.write(), RunOptions(quiet=True), StringIO())
    assert json.loads((tmp_path / "last-word").read_text()) == last_word


def test_a_run_on_the_cpu_tells_of_no_energy(
    job: JobFolder, sessions: FakeSessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TERMINATION_LOG_VARIABLE, str(tmp_path / "last-word"))
    job.write_input(text_lines(3))
    summary = run_job(job.write(), RunOptions(quiet=True), StringIO())
    assert "energy" not in summary
    assert not (job.output / ENERGY_PREFIX).exists()
    assert json.loads((job.output / "manifest.json").read_text())["energy"] is None
    assert "energy" not in json.loads((tmp_path / "last-word").read_text())


def test_a_picture_has_this_runs_power_and_the_whole_jobs_energy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_energy, "KEEP_SECONDS", 0.05)
    store = FailingStore()
    EnergyNote(store, "other").write(EnergyTotals(1000.0, 50.0))
    meter = EnergyMeter(("GPU-a",), MonotonicClock(), lambda _: None, SAMPLER)
    with meter, JobEnergy(meter, store, "this") as energy:
        end = time.monotonic() + 60
        while not (shown := energy.add_to(SNAPSHOT)).energy.joules and time.monotonic() < end:
            time.sleep(0.01)
        assert shown.power_watts == 100.0
        assert shown.job_energy.joules == pytest.approx(1000 + shown.energy.joules, abs=5)
        assert shown.num_done == SNAPSHOT.num_done
        # Another one's progress is seen, and a store that fails for a while changes nothing.
        EnergyNote(store, "third").write(EnergyTotals(500.0, 50.0))
        while energy.totals().gpu_seconds < 100 and time.monotonic() < end:
            time.sleep(0.01)
        store.is_failing = True
        time.sleep(0.1)
        assert energy.totals().joules >= 1500
        store.is_failing = False
    assert read_energy(store).joules >= 1500
    assert len(store.list(f"{ENERGY_PREFIX}this.")) == 1
