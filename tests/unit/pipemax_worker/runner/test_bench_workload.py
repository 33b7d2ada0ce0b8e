"""Workload files: the same prompts on every machine, and lengths the scheduler may not know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipemax_worker.contract.model_config import ModelConfig, load_model_config
from pipemax_worker.errors import InputError, InputNotFoundError
from pipemax_worker.runner.bench_workload import read_workload

TINY = Path(__file__).parents[4] / "models" / "tiny"
"""A context of 1,024 tokens."""


@pytest.fixture(name="config")
def fixture_config() -> ModelConfig:
    return load_model_config(TINY)


def write(folder: Path, *lines: dict[str, object] | str) -> Path:
    path = folder / "work.jsonl"
    path.write_text("".join(json.dumps(x) if isinstance(x, dict) else x for x in lines))
    return path


def line(prompt: int, output: int, seed: int = 0) -> dict[str, object] | str:
    document = {"prompt_tokens": prompt, "output_tokens": output, "seed": seed}
    return json.dumps(document) + "\n"


def test_lengths_and_seeds_become_prompts(tmp_path: Path, config: ModelConfig) -> None:
    path = write(tmp_path, line(7, 3, seed=1), line(2, 9, seed=2), line(7, 1, seed=1))
    work = read_workload(path, config, None, None)
    assert [len(prompt) for prompt in work.prompts] == [7, 2, 7]
    assert work.max_tokens == (3, 9, 1)
    assert work.prompts[0] == work.prompts[2] != work.prompts[1]
    assert all(3 <= token < config.vocab_size for prompt in work.prompts for token in prompt)
    assert work == read_workload(path, config, None, None)


def test_the_first_lines_only(tmp_path: Path, config: ModelConfig) -> None:
    assert len(read_workload(write(tmp_path, line(1, 1), line(2, 2), "no"), config, 2, None)) == 2


def test_hidden_lengths(tmp_path: Path, config: ModelConfig) -> None:
    work = read_workload(write(tmp_path, line(4, 5)), config, None, 64)
    assert (work.max_tokens, work.hidden_max_tokens) == ((5,), 64)


@pytest.mark.parametrize(
    ("content", "hidden", "complaint"),
    [
        ("{}\n", None, "line 1: .*prompt_tokens"),
        (str(line(3, 4)) + "nonsense\n", None, "line 2: "),
        (line(0, 4), None, "line 1: prompt_tokens and output_tokens must be 1 or more"),
        (line(3, 40), 39, "40 output tokens are more than the 39"),
        (line(1000, 25), None, "exceed the model's context of 1024"),
        (line(1000, 1), 25, "exceed the model's context of 1024"),
        ("", None, "holds no request"),
    ],
)
def test_faults_name_the_line(
    content: str, hidden: int | None, complaint: str, tmp_path: Path, config: ModelConfig
) -> None:
    with pytest.raises(InputError, match=complaint):
        read_workload(write(tmp_path, content), config, None, hidden)


def test_no_file(tmp_path: Path, config: ModelConfig) -> None:
    with pytest.raises(InputNotFoundError, match=r"none\.jsonl: cannot be read"):
        read_workload(tmp_path / "none.jsonl", config, None, None)
