"""What a person reads."""

import io

import pytest
from kit.progress import make_snapshot
from pipemax_worker.contract.energy import EnergyTotals
from pipemax_worker.contract.statistics import EngineStatistics
from pipemax_worker.telemetry.display import (
    LiveDisplay,
    PlainDisplay,
    open_display,
    progress_line,
    render_summary,
)
from pipemax_worker.telemetry.progress import format_bytes, format_seconds


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")]
)
def test_format_bytes(num_bytes: int, text: str) -> None:
    assert format_bytes(num_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2 s"), (245, "4 min 05 s"), (7 * 3600 + 720, "7 h 12 min")]
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_progress_line_names_rate_failures_and_time_left() -> None:
    line = progress_line(make_snapshot())
    assert line == (
        "reviews: 25%, 40 requests done, 4 failed, 6 in flight, 12 tokens/s, 1 min 30 s left"
    )


def test_time_left_is_not_guessed_too_early() -> None:
    assert "left" not in progress_line(make_snapshot(input_bytes_done=1))


def test_summary_says_what_moved_what_failed_and_where_results_are() -> None:
    summary = render_summary(make_snapshot(warnings=("the NVMe tier is off",)))
    assert "36 succeeded, 4 failed" in summary
    assert "3 x invalid_json" in summary
    assert "host to device 3.0 MiB" in summary
    assert "host to nvme 4.9 KiB" in summary
    assert "12.5 generated tokens/s over 30.0 s" in summary
    assert "/data/results" in summary
    assert "the NVMe tier is off" in summary


def test_summary_says_how_often_the_pipeline_was_started_again() -> None:
    assert "pipeline" not in render_summary(make_snapshot())
    once, twice = (make_snapshot(num_pipeline_restarts=number) for number in (1, 2))
    assert "  pipeline  started again 1 time\n" in render_summary(once)
    assert "  pipeline  started again 2 times\n" in render_summary(twice)


def test_summary_says_what_schemas_cost_where_there_were_any() -> None:
    assert "schemas   0.500 s of waiting for masks" in render_summary(make_snapshot())
    assert "schemas" not in render_summary(make_snapshot(statistics=EngineStatistics()))


def test_plain_display_prints_at_its_interval_only() -> None:
    stream = io.StringIO()
    display = PlainDisplay(stream, interval_seconds=10.0)
    for elapsed in (1.0, 2.5, 5.0, 12.0, 12.4):
        display.update(make_snapshot(elapsed_seconds=elapsed))
    display.close()
    assert len(stream.getvalue().splitlines()) == 1
    display.update(make_snapshot(elapsed_seconds=12.6))
    assert len(stream.getvalue().splitlines()) == 2


def test_what_takes_its_time_before_the_start_is_said_now_and_then() -> None:
    stream = io.StringIO()
    display = PlainDisplay(stream, interval_seconds=10.0)
    for elapsed in range(23):
        display.status(f"fetching: {elapsed}", float(elapsed))
    assert stream.getvalue().splitlines() == ["fetching: 2", "fetching: 12", "fetching: 22"]


def test_quiet_prints_nothing() -> None:
    stream = io.StringIO()
    display = open_display(stream, quiet=True)
    display.status("fetching", 1e9)
    display.update(make_snapshot(elapsed_seconds=1e9))
    display.message("hello")
    assert stream.getvalue() == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_live_panel_with_tiers() -> None:
    stream = Terminal()
    display = open_display(stream)
    assert isinstance(display, LiveDisplay)
    display.status("fetching: 5 GiB", 0.0)
    display.update(make_snapshot())
    display.message("loading")
    display.close()
    assert "device" in stream.getvalue()
    assert "loading" in stream.getvalue()


def test_summary_says_what_gpus_took_and_what_came_of_it() -> None:
    energy = EnergyTotals(400.0, 60.0)
    one = make_snapshot(energy=energy, job_energy=energy)
    assert "  energy    400 J over 0.0167 GPU-hours, 0.5 generated tokens/J\n" in render_summary(
        one
    )
    assert "by all runs" not in render_summary(one)
    many = make_snapshot(energy=energy, job_energy=EnergyTotals(7.2e6, 7200.0))
    assert "            2 kWh over 2 GPU-hours by all runs of the job\n" in render_summary(many)
    unmeasured = make_snapshot(energy=EnergyTotals(0.0, 360.0))
    assert "  energy    0.1 GPU-hours\n" in render_summary(unmeasured)
    assert "energy" not in render_summary(make_snapshot())
