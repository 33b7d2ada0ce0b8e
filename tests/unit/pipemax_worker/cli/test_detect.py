import sys
from pathlib import Path

import pytest
from kit.plan_jobs import SHAPES, plan_job
from pipemax_worker.cli import detect
from pipemax_worker.cli.main import main
from pipemax_worker.errors import StageDiedError
from pipemax_worker.performance.node_profile import parse_node_profile
from pipemax_worker.planner.detection.cpu import CpuSpeeds
from pipemax_worker.runner.bench_floor import CopySpeeds


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "list_gpus", lambda visible: ())
    speeds = CpuSpeeds(2, 5e10, 1e10, 4e9)
    monkeypatch.setattr(detect, "measure_cpu", lambda _: speeds)


def write_job(folder: Path, stages: int) -> Path:
    path = folder / "job.yaml"
    path.write_text(plan_job(SHAPES / "Qwen2.5-7B", f"parallelism: {{stagesPerNode: {stages}}}"))
    return path


def test_a_machine_without_gpus_is_profiled_and_planned_for(
    processor: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = tmp_path / "here.yaml"
    assert main(["plan", "--detect", "--disk", str(tmp_path), "--profile", str(profile)]) == 0
    node = parse_node_profile(profile.read_text(), "here.yaml")
    assert node.device == "cpu"
    assert any("measured: the disk" in source for source in node.sources)
    work = tmp_path / "work.jsonl"
    work.write_text('{"prompt_tokens": 30, "output_tokens": 4, "seed": 0}\n' * 4)
    options = ["--workload", str(work), "--policies", "vllm"]
    job = str(write_job(tmp_path, 2))
    assert main(["plan", job, "--hardware", str(profile), *options]) == 0
    assert "float32 KV" in capsys.readouterr().out
    assert main(["plan", job, "--detect", "--profile", str(profile), *options]) == 0


def test_more_stages_than_were_measured_are_refused(
    processor: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = str(write_job(tmp_path, 4))
    assert main(["plan", job, "--detect", "--policies", "vllm"]) == 78
    assert "--stages 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan"], "--hardware NxCARD, or --detect"),
        (["plan", "job.yaml"], "--hardware NxCARD, or --detect"),
        (["plan", "job.yaml", "--hardware", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["plan", "--detect", "--profile", "nowhere/here.yaml"], "cannot be written"),
    ],
)
def test_what_is_missing_is_said(
    processor: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) != 0
    assert message in capsys.readouterr().err


def test_the_first_card_is_measured_alone_and_then_all_at_once() -> None:
    asked: list[str] = []

    def copies_of(device: str) -> CopySpeeds:
        asked.append(device)
        return CopySpeeds("card", 8e11, 20e9 if len(asked) > 1 else 25e9, 24e9)

    speeds = detect.measure_gpus(2, copies_of, lambda _: 1e14)
    assert sorted(asked) == ["cuda:0", "cuda:0", "cuda:1"]
    assert speeds.load_alone == 25e9
    assert speeds.loads == (20e9, 20e9)
    assert detect.measure_gpus(1, copies_of, lambda _: 1e14).loads == (20e9,)


def test_products_are_measured_by_a_program() -> None:
    command = [sys.executable, "-c", "print('{\"flops\": 3.0}')"]
    assert detect.measure_flops("cuda:0", command) == 3.0
    with pytest.raises(StageDiedError, match="no torch here"):
        detect.measure_flops("cuda:0", [sys.executable, "-c", "raise SystemExit('no torch here')"])


def test_no_stage_at_all_is_refused_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--detect", "--stages", "0"])
    assert "expected 1 or more" in capsys.readouterr().err
