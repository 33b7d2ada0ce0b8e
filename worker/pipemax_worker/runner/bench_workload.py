"""Workload files: lengths and seeds in place of texts, so that any engine can be given the same."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import msgspec

from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.errors import InputError, InputNotFoundError
from pipemax_worker.runner.bench_work import FIRST_TOKEN_ID, BenchWork


class WorkloadLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request. ``seed``: of its random prompt."""

    prompt_tokens: int
    output_tokens: int
    seed: int


def read_workload(
    path: Path, config: ModelConfig, num_requests: int | None, hidden_max_tokens: int | None
) -> BenchWork:
    """The first ``num_requests`` lines, or all.

    ``hidden_max_tokens``: what the scheduler is told of every output's length, if not the truth.
    Raises InputNotFoundError, and InputError that names the line: no JSON, a length out of range.
    """
    lines = _read_lines(path, num_requests)
    for number, line in enumerate(lines, start=1):
        _check(line, f"{path}: line {number}", config, hidden_max_tokens)
    return BenchWork(
        tuple(_random_prompt(line, config.vocab_size) for line in lines),
        tuple(line.output_tokens for line in lines),
        hidden_max_tokens,
    )


def _read_lines(path: Path, num_requests: int | None) -> list[WorkloadLine]:
    lines: list[WorkloadLine] = []
    try:
        with path.open("rb") as file:
            for line in itertools.islice(file, num_requests):
                lines.append(msgspec.json.decode(line, type=WorkloadLine))
    except OSError as error:
        raise InputNotFoundError(f"{path}: cannot be read: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise InputError(
            f"{path}: line {len(lines) + 1}: {error}; a line is "
            '{"prompt_tokens": N, "output_tokens": N, "seed": N}'
        ) from error
    if not lines:
        raise InputError(f"{path}: holds no request")
    return lines


def _check(
    line: WorkloadLine, where: str, config: ModelConfig, hidden_max_tokens: int | None
) -> None:
    told = line.output_tokens if hidden_max_tokens is None else hidden_max_tokens
    if line.prompt_tokens < 1 or line.output_tokens < 1:
        raise InputError(f"{where}: prompt_tokens and output_tokens must be 1 or more")
    if line.output_tokens > told:
        raise InputError(
            f"{where}: {line.output_tokens} output tokens are more than the {told} that the "
            "scheduler is told; raise --max-tokens-hidden"
        )
    if line.prompt_tokens + told > config.max_position_embeddings:
        raise InputError(
            f"{where}: {line.prompt_tokens} prompt and {told} output tokens exceed the model's "
            f"context of {config.max_position_embeddings}"
        )


def _random_prompt(line: WorkloadLine, vocab_size: int) -> tuple[int, ...]:
    generator = random.Random(line.seed)
    return tuple(generator.choices(range(FIRST_TOKEN_ID, vocab_size), k=line.prompt_tokens))
