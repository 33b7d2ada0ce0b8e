"""The estimator's errors over a measured run, from figures whose steps are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from estimator_error import NUM_JUDGED, main, read_decode_steps

ROOT = Path(__file__).resolve().parents[3]
SHAPE = ROOT / "tools" / "shapes" / "Qwen2.5-14B"


def run_of(num_steps: int, last_is_slow: bool = False) -> dict[str, object]:
    """Decode steps that take what the linear form says, and prompts among them."""
    steps = []
    for number in range(num_steps):
        rows, kv_tokens = 40 + number % 7, 20_000 + 11 * number
        seconds = 5e-3 + 1e-6 * rows + 1e-8 * kv_tokens
        step = {"num_tokens": rows, "num_kv_tokens": kv_tokens, "num_requests": rows}
        steps.append(step | {"seconds": seconds, "num_prefill_tokens": 0})
        steps.append(step | {"seconds": 9.0, "num_prefill_tokens": 5})
    if last_is_slow:
        steps[-2]["seconds"] *= 2
    return {"steady": {"steps": steps}, "layers_of_stage": [25, 23]}


def printed(
    folder: Path, capsys: pytest.CaptureFixture[str], *runs: dict[str, object]
) -> list[str]:
    figures = folder / "figures.json"
    named = [{"name": f"run {number}", "runs": [run]} for number, run in enumerate(runs)]
    figures.write_text(json.dumps({"pipemax": named}))
    assert main([str(figures), "--model", str(SHAPE)]) == 0
    return capsys.readouterr().out.splitlines()


def test_prompts_are_left_out() -> None:
    steps = read_decode_steps(run_of(3))
    assert [shape.num_tokens for shape, _ in steps] == [40, 41, 42]
    assert read_decode_steps({"steady": None}) == []


def test_what_the_linear_form_says_it_predicts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, corrected, linear = printed(tmp_path, capsys, run_of(300))
    assert head == f"run 0: the last {NUM_JUDGED} of 300 decode steps"
    assert linear.split() == [
        "linear",
        "within",
        "5",
        "%",
        "100%",
        "median",
        "0.0%",
        "worst",
        "0.0%",
    ]
    assert "within 5 % 100%" in corrected


def test_one_slow_step_is_the_worst(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, corrected, linear = printed(tmp_path, capsys, run_of(300, last_is_slow=True))
    for line in (corrected, linear):
        assert "within 5 %  99%" in line
        assert 49 < float(line.split()[-1].rstrip("%")) < 51


def test_few_steps_are_not_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = run_of(2 * NUM_JUDGED - 1)
    assert printed(tmp_path, capsys, short) == ["run 0: 199 steady decode steps are too few"]
