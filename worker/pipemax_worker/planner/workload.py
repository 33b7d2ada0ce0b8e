"""Requests as lengths: what a simulation runs in place of texts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np

from pipemax_worker.contract.request import RecordKey, Request, SamplingParams, StopChecker
from pipemax_worker.engine.hidden_length import LengthReached
from pipemax_worker.errors import InputError, InputNotFoundError

_TOKEN_ID = 5


class LengthDistribution(msgspec.Struct, frozen=True):
    """Log-normal lengths, clipped; ``mean`` is the distribution's own before clipping."""

    mean: float
    sigma: float
    shortest: int
    longest: int

    def draw(self, generator: np.random.RandomState, num_requests: int) -> list[int]:
        location = np.log(self.mean) - self.sigma**2 / 2
        lengths = generator.lognormal(location, self.sigma, num_requests)
        return [int(n) for n in np.clip(np.round(lengths), self.shortest, self.longest)]


class Workload(msgspec.Struct, frozen=True):
    """(prompt, output) tokens of each request, in order.

    hidden_max_tokens   what the scheduler is told of every output's length; None: the truth.
    """

    lengths: tuple[tuple[int, int], ...]
    hidden_max_tokens: int | None = None

    @property
    def num_prompt_tokens(self) -> int:
        return sum(prompt for prompt, _ in self.lengths)

    @property
    def num_output_tokens(self) -> int:
        return sum(output for _, output in self.lengths)

    def first(self, num_requests: int) -> Workload:
        """Its first requests: lengths are drawn independently, so they are a sample of it."""
        return Workload(self.lengths[:num_requests], self.hidden_max_tokens)

    def requests(self) -> Iterator[tuple[Request, StopChecker | None]]:
        for number, (prompt, output) in enumerate(self.lengths):
            told = self.hidden_max_tokens or output
            sampling = SamplingParams(max_tokens=told, temperature=0.0)
            request = Request(RecordKey("simulated", number), 0, _prompt(prompt), sampling)
            yield request, None if told == output else LengthReached(output)


NAMED_DISTRIBUTIONS = {
    "sharegpt": (
        LengthDistribution(355.0, 1.0, 4, 2048),
        LengthDistribution(242.0, 0.9, 4, 1024),
    ),
    "longbench": (
        LengthDistribution(2750.0, 0.7, 64, 8192),
        LengthDistribution(104.0, 0.8, 4, 512),
    ),
    "long-generation": (
        LengthDistribution(512.0, 0.3, 64, 2048),
        LengthDistribution(2048.0, 0.3, 256, 4096),
    ),
    "w1": (
        LengthDistribution(512.0, 0.8, 16, 2048),
        LengthDistribution(512.0, 0.7, 16, 1536),
    ),
}
"""Shapes; ``draw_workload`` scales the first two to the means that the paper names (ShareGPT 343.76
in and 237.20 out, LongBench 2686.89 and 101.78, arXiv 2605.02189)."""

_MEANS = {"sharegpt": (343.76, 237.20), "longbench": (2686.89, 101.78)}
_NUM_DRAWN_OF_W1 = 1500


def draw_workload(name: str, num_requests: int, seed: int = 0) -> Workload:
    """Lengths of a named workload, the same on every machine. ``w1``: the first of 1,500, as
    ``tools/make_workload.py`` draws them. Raises InputError with the names there are."""
    if name not in NAMED_DISTRIBUTIONS:
        names = ", ".join(sorted(NAMED_DISTRIBUTIONS))
        raise InputError(f"workload {name!r} is unknown; choose one of {names}, or a JSONL file")
    generator = np.random.RandomState(seed)
    num_drawn = max(num_requests, _NUM_DRAWN_OF_W1) if name == "w1" else num_requests
    columns = [d.draw(generator, num_drawn)[:num_requests] for d in NAMED_DISTRIBUTIONS[name]]
    if name in _MEANS:
        columns = [_scaled(c, mean) for c, mean in zip(columns, _MEANS[name], strict=True)]
    return Workload(tuple(zip(*columns, strict=True)))


def _scaled(lengths: list[int], mean: float) -> list[int]:
    factor = mean * len(lengths) / max(1, sum(lengths))
    return [max(1, round(length * factor)) for length in lengths]


class _Line(msgspec.Struct, frozen=True):
    prompt_tokens: int
    output_tokens: int


def read_workload_lengths(path: Path, num_requests: int | None) -> Workload:
    """Of a workload file as ``pipemax bench`` takes it. Raises InputNotFoundError, InputError."""
    lengths: list[tuple[int, int]] = []
    try:
        with path.open("rb") as file:
            for line in file:
                if num_requests is not None and len(lengths) == num_requests:
                    break
                entry = msgspec.json.decode(line, type=_Line)
                lengths.append((entry.prompt_tokens, entry.output_tokens))
    except OSError as error:
        raise InputNotFoundError(f"{path}: cannot be read: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: line {len(lengths) + 1}: {error}") from error
    if not lengths or min(map(min, lengths)) < 1:
        raise InputError(f"{path}: needs a line at least, and lengths of 1 or more")
    return Workload(tuple(lengths))


@lru_cache(maxsize=16384)
def _prompt(num_tokens: int) -> tuple[int, ...]:
    """One tuple a length: a hundred thousand requests of the same prompts cost no memory."""
    return (_TOKEN_ID,) * num_tokens
