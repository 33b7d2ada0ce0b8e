"""The paper's setting, small and on the CPU: what is measured is what was predicted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TOOL = ROOT / "tools" / "paper_setting.py"


def run_tool(*arguments: object) -> str:
    command = [sys.executable, TOOL, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=550)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def lengths(tmp_path: Path) -> Path:
    path = tmp_path / "lengths.jsonl"
    lines = ({"prompt_tokens": 4 + n, "output_tokens": 3 + n % 3, "seed": n} for n in range(6))
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_what_was_predicted_is_measured(lengths: Path, tmp_path: Path) -> None:
    predictions, figures = tmp_path / "predictions.json", tmp_path / "figures.json"
    options = {
        "--shape": ROOT / "models" / "tiny",
        "--hardware": "4090",
        "--stages": 2,
        "--workload": lengths,
        "--policies": "vllm,fused",
        "--memory": "",
        "--host": "16Mi",
        "--seconds": 0.001,
    }
    flat = (part for option in options.items() for part in option)
    run_tool("predict", predictions, "--half-depth", *flat)
    predicted = json.loads(predictions.read_text())
    assert predicted["requests"] == 6
    assert set(predicted["predictions"]) == {"vllm", "fused"}
    assert all(one["tokensPerSecond"] > 0 for one in predicted["predictions"].values())
    printed = run_tool("measure", predictions, "--json", figures)
    rows = {line.split()[0]: line.split() for line in printed.splitlines()[-2:]}
    assert set(rows) == {"vllm", "fused"}
    report = json.loads(figures.read_text())
    for measured in report["pipemax"]:
        run = measured["runs"][0]
        assert run["num_prompt_tokens"] + run["num_generated_tokens"] == 39 + 24
        assert int(rows[measured["name"]][1]) == pytest.approx(63 / run["seconds"], abs=1)
    assert "4 layers" in printed, "half of the eight"
