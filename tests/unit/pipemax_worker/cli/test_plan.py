import json
from pathlib import Path

import pytest
from kit.plan_jobs import SHAPES, plan_job
from pipemax_worker.cli.main import main

FURTHER = "kvCache: {host: 8Gi}"


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(plan_job(SHAPES / "Qwen2.5-32B", FURTHER))
    return path


def test_a_job_is_planned_for_hardware_that_is_not_here(
    job_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "plan.json"
    options = [
        "--hardware",
        "8x4090",
        "--requests",
        "6",
        "--sample",
        "2",
        "--policies",
        "fused,vllm",
    ]
    assert main(["plan", str(job_file), *options, "--json", str(figures)]) == 0
    text = capsys.readouterr().out
    assert "8 x NVIDIA GeForce RTX 4090" in text
    assert "best: policy" in text
    assert [row["policy"] for row in json.loads(figures.read_bytes())["rows"]] == ["fused", "vllm"]


def test_lengths_come_from_a_file(job_file: Path, tmp_path: Path) -> None:
    work = tmp_path / "work.jsonl"
    work.write_text('{"prompt_tokens": 30, "output_tokens": 4, "seed": 0}\n' * 8)
    options = ["--hardware", "2xh200", "--workload", str(work), "--policies", "vllm"]
    assert main(["plan", str(job_file), *options]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hardware", "8x9999"], "hardware '8x9999' is unknown"),
        (["--hardware", "8x4090", "--workload", "nowhere.jsonl"], "cannot be read"),
        (["--hardware", "1x4090", "--requests", "2"], "no room for KV"),
    ],
)
def test_what_cannot_be_planned_is_said(
    job_file: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["plan", str(job_file), *options]) != 0
    assert message in capsys.readouterr().err


def test_a_model_from_elsewhere_is_known_by_its_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(plan_job("hostPath:///models/nowhere", FURTHER))
    options = ["--hardware", "8x5090", "--requests", "8", "--policies", "vllm"]
    assert main(["plan", str(path), *options]) != 0
    model = ["--model-config", str(SHAPES / "Qwen2.5-32B")]
    capsys.readouterr()
    assert main(["plan", str(path), *options, *model]) == 0


def test_the_best_run_is_drawn(
    job_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work.jsonl"
    work.write_text('{"prompt_tokens": 30, "output_tokens": 4, "seed": 0}\n' * 8)
    options = ["--hardware", "2xh200", "--workload", str(work), "--plot", str(tmp_path / "plots")]
    assert main(["plan", str(job_file), *options, "--policies", "vllm,vllm-tp"]) == 0
    text = capsys.readouterr().out
    assert "stage 1" in text
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        "tiers.png",
        "timeline.png",
    ]
    assert main(["plan", str(job_file), *options[:4], "--policies", "vllm-tp", "--timeline"]) == 0
    assert "nothing to draw" in capsys.readouterr().out
