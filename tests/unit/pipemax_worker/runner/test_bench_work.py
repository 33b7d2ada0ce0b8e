"""The work of a benchmark: mixed lengths, the same every time, within the model's context."""

import json
from pathlib import Path

import msgspec
import pytest
from pipemax_worker.contract.model_config import ModelConfig, load_model_config
from pipemax_worker.errors import InputError, InputNotFoundError
from pipemax_worker.runner.bench_work import OUTPUT_TOKENS, BenchWork, make_work, read_work

TINY = Path(__file__).parents[4] / "models" / "tiny"


@pytest.fixture(name="config")
def fixture_config() -> ModelConfig:
    return load_model_config(TINY)


def line(text: str, **body: object) -> str:
    request = {"prompt": text, **body}
    return json.dumps(
        {"custom_id": text, "method": "POST", "url": "/v1/completions", "body": request}
    )


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_random_work_has_lengths_in_bounds_and_mixed(config: ModelConfig) -> None:
    work = make_work(config, 200, seed=1)
    lengths = [len(prompt) for prompt in work.prompts]
    assert len(work) == 200
    assert min(lengths) >= 8
    assert max(lengths) <= 400
    assert sum(length < 57 for length in lengths) == pytest.approx(100, abs=25)  # the log's middle
    assert min(work.max_tokens) >= OUTPUT_TOKENS[0]
    assert max(work.max_tokens) <= OUTPUT_TOKENS[1]
    assert len(set(work.max_tokens)) > 20
    assert all(3 <= token < config.vocab_size for prompt in work.prompts for token in prompt)


def test_a_seed_gives_the_same_work_and_another_seed_another(config: ModelConfig) -> None:
    assert make_work(config, 5, seed=1) == make_work(config, 5, seed=1)
    assert make_work(config, 5, seed=1) != make_work(config, 5, seed=2)


@pytest.mark.parametrize("context", [97, 100, 128])
def test_random_work_fits_a_short_context(config: ModelConfig, context: int) -> None:
    short = msgspec.structs.replace(config, max_position_embeddings=context)
    work = make_work(short, 50, seed=0)
    assert all(
        1 <= len(p) <= context - n for p, n in zip(work.prompts, work.max_tokens, strict=True)
    )


def test_totals_and_blocks() -> None:
    work = BenchWork(((1, 2, 3), (4,)), (5, 8))
    assert work.num_prompt_tokens == 4
    assert work.num_output_tokens == 13
    assert work.num_blocks(4) == 2 + 3
    assert work.longest_blocks(4) == 3


def test_lines_are_tokenized_and_their_outputs_bounded(tmp_path: Path, config: ModelConfig) -> None:
    path = write(tmp_path / "in.jsonl", line("sort: 3 1 2", max_tokens=17), "", line("add: 1 2"))
    work = read_work(path, TINY, config, None, seed=0)
    assert len(work) == 2
    assert work.max_tokens[0] <= 17
    assert OUTPUT_TOKENS[0] <= work.max_tokens[1] <= OUTPUT_TOKENS[1]
    assert work == read_work(path, TINY, config, 2, seed=0)
    assert len(read_work(path, TINY, config, 1, seed=0)) == 1


def test_a_bad_line_is_named(tmp_path: Path, config: ModelConfig) -> None:
    path = write(tmp_path / "in.jsonl", line("sort: 3 1 2"), "{")
    with pytest.raises(InputError, match=r"in\.jsonl: line 2: "):
        read_work(path, TINY, config, None, seed=0)


def test_no_file_and_no_line_are_told_apart(tmp_path: Path, config: ModelConfig) -> None:
    with pytest.raises(InputNotFoundError, match="cannot be read"):
        read_work(tmp_path / "none.jsonl", TINY, config, None, seed=0)
    with pytest.raises(InputError, match="no request"):
        read_work(write(tmp_path / "empty.jsonl"), TINY, config, None, seed=0)
