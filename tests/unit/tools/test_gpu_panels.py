"""A GPU machine's metrics, shown to a real Prometheus afterwards: made-up ones, for there is no GPU
here."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import gpu_panels
import pytest
from kit.prometheus import find_program

START = 1_700_000_000.0
GPU_SERIES = """\
pipemax_gpu_power_watts{gpu="0"} %(watts)d
# HELP pipemax_gpu_energy_joules_total Energy
pipemax_gpu_energy_joules_total{gpu="0"} %(joules)d
pipemax_gpu_seconds_total{gpu="0"} %(second)d
"""
SERIES = """\
# TYPE pipemax_tokens_total counter
pipemax_tokens_total{kind="generated"} %(tokens)d
pipemax_run_remaining_seconds 12.5
"""


def scrapes(text: str, num: int = 40) -> list[gpu_panels.Scrape]:
    return [
        (START + n, text % {"watts": 300 + n, "joules": 310 * n, "second": n, "tokens": 9000 * n})
        for n in range(num)
    ]


def write(path: Path, text: str, num: int = 40) -> Path:
    lines = (json.dumps({"at": at, "text": told}) for at, told in scrapes(text, num))
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def rows_of_gpus(printed: str) -> set[str]:
    return {" ".join(line.split()[1:2]) for line in printed.splitlines() if line.startswith("GPU")}


def test_panels_of_gpus_find_their_series(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write(tmp_path / "good.jsonl", SERIES + GPU_SERIES)
    assert gpu_panels.main([str(good)]) == 0
    assert rows_of_gpus(capsys.readouterr().out) == {"data"}
    without = write(tmp_path / "without.jsonl", SERIES)
    assert gpu_panels.main([str(without)]) == 1
    printed = capsys.readouterr().out
    assert rows_of_gpus(printed) == {"none"}
    assert "data  pipemax-job: Generated tokens a second" in printed


def test_too_few_scrapes_have_no_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_panels.main([str(write(tmp_path / "two.jsonl", SERIES, 2))]) == 2
    assert gpu_panels.main([str(tmp_path / "missing.jsonl")]) == 2
    assert "2 scrapes are too few" in capsys.readouterr().out


def test_samples_keep_their_labels_and_times() -> None:
    moved = gpu_panels.moved_to_now(scrapes(SERIES + GPU_SERIES, 3), 5000.0)
    assert [at for at, _ in moved] == [4938.0, 4939.0, 4940.0]
    lines = list(gpu_panels.as_open_metrics(moved))
    assert lines[-1] == "# EOF"
    assert len(lines) == 3 * 5 + 1
    assert f'pipemax_gpu_power_watts{{gpu="0",{gpu_panels.LABELS}}} 301 4939.000' in lines
    assert f"pipemax_run_remaining_seconds{{{gpu_panels.LABELS}}} 12.5 4940.000" in lines


def test_prometheus_takes_what_is_written(tmp_path: Path) -> None:
    gpu_panels.fill_storage(tmp_path, scrapes(GPU_SERIES))
    listed = subprocess.run(
        [find_program("promtool"), "tsdb", "list", tmp_path / "series"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "120" in listed.split()
