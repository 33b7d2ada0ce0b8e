"""What the GPU tools decide without a GPU."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import gpu_check
import gpu_nvme
import gpu_slices
import gpu_transformers
import paper_setting
import pytest
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.model_config import load_model_config
from pipemax_worker.contract.statistics import CopyTotals
from pipemax_worker.performance.node_profile import load_node_profile
from pipemax_worker.planner.detection.profile import render_profile
from pipemax_worker.runner.bench_engine import EngineRun

RUN = EngineRun(
    seconds=2.0,
    num_prompt_tokens=10,
    num_generated_tokens=100,
    num_steps=5,
    mean_batch_tokens=20.0,
    median_step_seconds=0.01,
    num_preemptions=3,
    num_recomputed_tokens=7,
    num_cached_tokens=0,
    stages=(),
    copies=(CopyTotals(Tier.HOST, Tier.NVME, 4_000_000_000, 2.0),),
    peak_live_blocks=1,
    num_device_blocks=1,
    token_ids=(),
)


def test_slices_of_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The daemon runs for the command alone, and both find it at the same place."""
    log = tmp_path / "log"
    control = tmp_path / gpu_slices.CONTROL
    control.write_text(f"#!/bin/sh\necho control $1 $(cat) $CUDA_MPS_PIPE_DIRECTORY >> {log}\n")
    control.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    told = 'echo command "$CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" "$CUDA_MPS_PIPE_DIRECTORY"'
    words = ["--slices", "4", "--", "sh", "-c", f"{told} >> {log}; exit 3"]
    assert gpu_slices.main(words) == 3
    started, ran, ended = (line.split() for line in log.read_text().splitlines())
    folder = ran[-1]
    assert started == ["control", "-d", folder]
    assert ran == ["command", "25", folder]
    assert ended == ["control", "quit", folder]
    assert not Path(folder).exists()


def test_no_slices_without_the_drivers_daemon(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit):
        gpu_slices.main(["--", "true"])
    assert "comes with NVIDIA's driver" in capsys.readouterr().err


def test_a_part_of_the_quickstart_is_checked_against_itself(tmp_path: Path) -> None:
    run = gpu_check.runs_for(1, "cpu")[0]
    job_file, output = gpu_check.write_job(tmp_path, run, "cpu", 3)
    spec = json.loads(job_file.read_text())["spec"]
    prompts = Path(spec["input"]["uri"])
    assert len(prompts.read_bytes().splitlines()) == 3
    assert gpu_check.right_answers(output) == (0, 3), "no record yet"


def test_nvme_figures_are_by_direction() -> None:
    row = gpu_nvme.row_of("on", RUN)
    assert (row["written_bytes"], row["written_gb_per_second"]) == (4_000_000_000, 2.0)
    assert (row["read_bytes"], row["read_gb_per_second"]) == (0, 0.0)
    assert (row["output_tokens_per_second"], row["recomputed_tokens"]) == (50.0, 7)


def test_nvme_is_there_or_not(tiny_folder: Path, tmp_path: Path) -> None:
    options = argparse.Namespace(
        model=tiny_folder, stages=1, micro_batches=2, max_num_requests=8, device_kv=1 << 20,
        host=1 << 21, nvme=1 << 22,
    )  # fmt: skip
    config = load_model_config(tiny_folder)
    on, off = (gpu_nvme.settings_of(options, config, folder) for folder in (tmp_path, None))
    assert (on.pipeline.nvme_kv_bytes, off.pipeline.nvme_kv_bytes) == (1 << 22, 0)
    assert on.growth_reserve_ratio == off.growth_reserve_ratio == 0.0


def test_equal_tokens_are_counted_over_all_answers() -> None:
    assert gpu_transformers.share_equal([[1, 2, 3], [4]], ((1, 9, 3), (4,))) == 0.75


@pytest.mark.parametrize(("memory", "expected"), [("20Gi", 20 << 30), ("", 24564 << 20)])
def test_a_detected_profile_is_capped(tmp_path: Path, memory: str, expected: int) -> None:
    profile = tmp_path / "here.yaml"
    node = load_node_profile("2x4090")
    profile.write_text(
        render_profile(
            node.model_copy(
                update={"gpu": node.gpu.model_copy(update={"memory_bytes": 24564 << 20})}
            )
        )
    )
    document = {"policies": [], "stages": 2, "hardware": str(profile), "memory": memory}
    found = paper_setting.Setting(document).node()
    assert (found.num_gpus, found.gpu.memory_bytes) == (2, expected)
    document["hardware"] = "4090"
    assert paper_setting.Setting(document).node().num_gpus == 2
