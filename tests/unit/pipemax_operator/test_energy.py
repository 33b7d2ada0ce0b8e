"""Energy in the status: by the workers' words, never going back, no reason to write by itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from kit.progress import make_snapshot
from pipemax_operator.crd_status import STATUS_SCHEMA
from pipemax_operator.energy import EnergyUsed, energy_as_status, parse_energy
from pipemax_operator.metrics import OperatorMetrics
from pipemax_operator.observed import Observed, ObservedPod, Termination
from pipemax_operator.outcome import Outcome
from pipemax_operator.progress import RangeTotals, WorkerProgress, parse_progress
from pipemax_operator.status import build_status
from pipemax_operator.terminations import find_termination
from pipemax_worker.contract.energy import EnergyTotals
from pipemax_worker.dataset.records import RecordCounts
from pipemax_worker.runner import termination
from pipemax_worker.telemetry.progress import progress_as_json

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RUNNING = Outcome("Running", "WorkersRunning", "1 of 1 workers run")
COMPLETE = Outcome("Complete", "AllRecordsWritten", "10 requests succeeded")


def observe(
    *workers: WorkerProgress, status: dict[str, Any] | None = None, **changes: Any
) -> Observed:
    return Observed(1, NOW, "u", status=status or {}, progress=workers, **changes)


def worker(done: int, joules: float, gpu_seconds: float) -> WorkerProgress:
    totals = RangeTotals(done, 0, 10, 10, done, done, done)
    energy = EnergyUsed(joules, gpu_seconds)
    return WorkerProgress("pod", 100, RangeTotals(), totals, energy=energy)


def test_the_worker_that_knows_most_is_believed_and_nothing_goes_back() -> None:
    told = [EnergyUsed(1000.4, 3600.0), EnergyUsed(1200.4, 3500.0)]
    assert energy_as_status(told, None) == {"joules": 1200, "gpuHours": 1.0}
    before = {"joules": 5000, "gpuHours": 0.5}
    assert energy_as_status(told, before) == {"joules": 5000, "gpuHours": 1.0}
    assert energy_as_status([], before) == before


def test_what_is_not_measured_is_left_out() -> None:
    assert energy_as_status([EnergyUsed(0.0, 1800.0)], None) == {"gpuHours": 0.5}
    assert energy_as_status([EnergyUsed()], None) is None


@pytest.mark.parametrize("said", [None, 7, {}, {"joules": "many"}, {"joules": -1}])
def test_what_says_nothing_is_nothing(said: object) -> None:
    assert parse_energy(said) == EnergyUsed()


def test_a_status_is_written_for_progress_and_takes_the_energy_along() -> None:
    first = build_status(observe(worker(3, 100.0, 60.0)), RUNNING, NOW)
    assert first["energy"] == {"joules": 100, "gpuHours": 0.017}
    idle = build_status(observe(worker(3, 900.0, 70.0), status=first), RUNNING, NOW)
    assert idle == first, "the GPU is warm, and nothing has come of it"
    moved = build_status(observe(worker(4, 950.0, 71.0), status=idle), RUNNING, NOW)
    assert moved["energy"]["joules"] == 950
    # The pod is gone, and its successor has nothing to say yet.
    assert build_status(observe(status=moved), RUNNING, NOW)["energy"] == moved["energy"]


def test_the_last_word_is_the_end(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(termination.TERMINATION_LOG_VARIABLE, str(tmp_path / "log"))
    termination.write_completion(RecordCounts(10), EnergyTotals(7200.4, 7200.0))
    ended = {"exitCode": 0, "message": (tmp_path / "log").read_text()}
    said = find_termination({"containerStatuses": [{"state": {"terminated": ended}}]})
    assert isinstance(said, Termination)
    pod = ObservedPod("pod", "Succeeded", termination=said)
    status = build_status(observe(pods=(pod,)), COMPLETE, NOW)
    assert status["energy"] == {"joules": 7200, "gpuHours": 2.0}
    assert build_status(observe(pods=(pod,), status=status), COMPLETE, NOW) == status
    assert set(status["energy"]) <= set(STATUS_SCHEMA["properties"]["energy"]["properties"])


def test_a_workers_page_is_understood() -> None:
    snapshot = make_snapshot(energy=EnergyTotals(1.0, 2.0), job_energy=EnergyTotals(500.5, 90.0))
    page = json.loads(progress_as_json(snapshot))
    assert parse_progress("pod", page).energy == EnergyUsed(500.5, 90.0)


def test_series_of_a_job_with_gpus() -> None:
    metrics = OperatorMetrics()
    labels = {"namespace": "a", "job": "reviews"}
    metrics.show_energy("a", "reviews", {"joules": 9000, "gpuHours": 0.5})
    read = metrics.registry.get_sample_value
    assert read("pipemax_job_energy_joules", labels) == 9000
    assert read("pipemax_job_gpu_seconds", labels) == 1800
    metrics.show_energy("a", "reviews", {})
    assert read("pipemax_job_energy_joules", labels) is None
    metrics.show_energy("a", "reviews", {"gpuHours": 0.5})
    assert read("pipemax_job_energy_joules", labels) is None
    metrics.forget("a", "reviews")
    assert read("pipemax_job_gpu_seconds", labels) is None
