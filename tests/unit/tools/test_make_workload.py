"""W1 is the workload that others were measured on."""

import json
from pathlib import Path

import pytest
from make_workload import main


def test_checksums(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "w1.jsonl"
    assert main([str(path)]) == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 1000
    assert sum(line["prompt_tokens"] for line in lines) == 482_585
    assert sum(line["output_tokens"] for line in lines) == 490_348
    assert {line["seed"] for line in lines} == set(range(1000))
    assert "482585 tokens in, 490348 out" in capsys.readouterr().out


def test_even_lengths_are_those_that_were_measured(tmp_path: Path) -> None:
    path = tmp_path / "even.jsonl"
    assert main([str(path), "--even"]) == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 3000
    assert sum(line["prompt_tokens"] for line in lines[:401]) == 101_291
    assert sum(line["output_tokens"] for line in lines[:401]) == 99_989
