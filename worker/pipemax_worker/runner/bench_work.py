"""What every engine of a benchmark generates: the same prompts, the same output lengths."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pipemax_worker.contract.geometry import num_blocks_for
from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.contract.request import RecordKey
from pipemax_worker.errors import InputError, InputNotFoundError, RequestError
from pipemax_worker.prompts.processor import PromptProcessor
from pipemax_worker.prompts.settings import PromptSettings, SamplingDefaults
from pipemax_worker.prompts.tokenizer import load_tokenizer

PROMPT_TOKENS = (8, 400)
OUTPUT_TOKENS = (16, 96)
FIRST_TOKEN_ID = 3
"""Ids below it are special tokens in most vocabularies."""


class BenchWork(msgspec.Struct, frozen=True):
    """Greedy, and exactly ``max_tokens`` tokens each: the end of sequence is ignored.

    ``hidden_max_tokens``: what the scheduler is told of every length, where it must not know it.
    """

    prompts: tuple[tuple[int, ...], ...]
    max_tokens: tuple[int, ...]
    hidden_max_tokens: int | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def num_prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))

    @property
    def num_output_tokens(self) -> int:
        return sum(self.max_tokens)

    def num_blocks(self, block_tokens: int) -> int:
        """Blocks of all requests, were they all in flight with their last token."""
        return sum(num_blocks_for(length, block_tokens) for length in self._lengths())

    def longest_blocks(self, block_tokens: int) -> int:
        return num_blocks_for(max(self._lengths()), block_tokens)

    def _lengths(self) -> Iterator[int]:
        return (len(p) + n for p, n in zip(self.prompts, self.max_tokens, strict=True))


def make_work(
    config: ModelConfig, num_requests: int, seed: int, max_prompt_tokens: int = PROMPT_TOKENS[1]
) -> BenchWork:
    """Random token ids. Prompt lengths are even on a logarithmic scale (many short, few long),
    output lengths even; both within the model's context."""
    generator = random.Random(seed)
    room = config.max_position_embeddings - OUTPUT_TOKENS[1]
    longest = max(1, min(max_prompt_tokens, room))
    shortest = min(PROMPT_TOKENS[0], longest)
    prompts, max_tokens = [], []
    for _ in range(num_requests):
        exponent = generator.uniform(math.log(shortest), math.log(longest + 1))
        length = min(longest, int(math.exp(exponent)))
        prompts.append(_random_tokens(generator, config.vocab_size, length))
        max_tokens.append(generator.randint(*OUTPUT_TOKENS))
    return BenchWork(tuple(prompts), tuple(max_tokens))


def _any_model(line: bytes) -> bytes:
    """The line without the name of its model: prompts are measured on whatever model is given."""
    try:
        request = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return line  # refused by name when it is prepared
    if isinstance(request, dict) and isinstance(body := request.get("body"), dict):
        body.pop("model", None)
    return msgspec.json.encode(request)


def _random_tokens(generator: random.Random, vocab_size: int, length: int) -> tuple[int, ...]:
    return tuple(generator.randrange(FIRST_TOKEN_ID, vocab_size) for _ in range(length))


def read_work(
    path: Path, model_folder: Path, config: ModelConfig, num_requests: int | None, seed: int
) -> BenchWork:
    """The first ``num_requests`` lines of an OpenAI Batch file, through the model's tokenizer and
    chat template. Output lengths are drawn as for random work, and are no longer than a line's
    ``max_tokens``. Raises InputNotFoundError, InputError (naming the line), ModelNotFoundError.
    """
    settings = PromptSettings(
        model_name=model_folder.name,
        max_model_tokens=config.max_position_embeddings,
        defaults=SamplingDefaults(max_tokens=OUTPUT_TOKENS[1]),
    )
    processor = PromptProcessor(load_tokenizer(model_folder), config, settings)
    generator = random.Random(seed)
    prompts: list[tuple[int, ...]] = []
    max_tokens: list[int] = []
    for number, line in enumerate(_read_lines(path), start=1):
        if num_requests is not None and len(prompts) == num_requests:
            break
        try:
            prepared = processor.prepare(_any_model(line), RecordKey(path.name, number), number)
        except RequestError as error:
            raise InputError(f"{path}: line {number}: {error}") from error
        request = prepared.requests[0]
        prompts.append(request.prompt_token_ids)
        max_tokens.append(min(generator.randint(*OUTPUT_TOKENS), request.sampling.max_tokens))
    if not prompts:
        raise InputError(f"{path}: holds no request")
    return BenchWork(tuple(prompts), tuple(max_tokens))


def _read_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from (line for line in file if line.strip())
    except OSError as error:
        raise InputNotFoundError(f"{path}: cannot be read: {error.strerror or error}") from error
