"""How much is done and how long the rest takes."""

import json

import pytest
from kit.progress import make_snapshot
from pipemax_worker.contract.energy import EnergyTotals
from pipemax_worker.telemetry.progress import progress_as_json


@pytest.mark.parametrize(
    ("done", "found", "remaining"),
    [
        (250, 0, 90.0),
        (1000, 0, 0.0),
        (9, 0, None),  # less than one percent
        (500, 400, 150.0),  # this run has done a tenth, half is left
        (409, 400, None),
        (1200, 400, 0.0),  # a last line without its end counts one byte too many
    ],
)
def test_time_left_is_judged_by_this_runs_rate(
    done: int, found: int, remaining: float | None
) -> None:
    """30 seconds have passed; the input has 1,000 bytes."""
    snapshot = make_snapshot(input_bytes_done=done, input_bytes_found=found)
    assert snapshot.remaining_seconds == remaining


def test_nothing_to_do_is_all_done() -> None:
    snapshot = make_snapshot(input_bytes_total=0, input_bytes_done=0)
    assert snapshot.fraction_done == 1.0
    assert snapshot.remaining_seconds is None


def test_the_page_says_where_time_and_energy_went() -> None:
    snapshot = make_snapshot(
        energy=EnergyTotals(400.25, 60.0), job_energy=EnergyTotals(900.5, 99.0), power_watts=310.5
    )
    page = json.loads(progress_as_json(snapshot))
    assert page["energy"] == {"joules": 400.25, "gpuSeconds": 60.0}
    assert page["jobEnergy"] == {"joules": 900.5, "gpuSeconds": 99.0}
    assert page["powerWatts"] == 310.5
    assert page["stageSeconds"][0] == {"stage": 0, "compute": 6.0, "stall": 1.0, "wait": 3.0}
    assert page["engineRequests"].keys() == {"waiting", "running", "preempted"}
    on_cpu = json.loads(progress_as_json(make_snapshot()))
    assert on_cpu["energy"] == {"joules": 0.0, "gpuSeconds": 0.0}
    assert on_cpu["powerWatts"] is None
