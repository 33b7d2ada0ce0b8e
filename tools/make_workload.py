"""Writes the workload W1: lengths of 1,000 requests, log-normal, the same on every machine.

    python tools/make_workload.py w1.jsonl
    python tools/make_workload.py even.jsonl --even

numpy's RandomState(0): inputs of mean 512 and sigma 0.8, clipped to 16..2048; outputs of mean 512
and sigma 0.7, clipped to 16..1536; 1,500 of each drawn, inputs first, and rounded; the first 1,000
used: 482,585 tokens in, 490,348 out.

``--even``: lengths that differ less, so that a pipeline of many stages is not long alone with the
last of them: 3,000 inputs and outputs of mean 256 and sigma 0.4, clipped to 32..1024 and 32..640.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

NUM_DRAWN, NUM_USED = 1500, 1000
MEAN_TOKENS = 512
EVEN_MEAN_TOKENS, EVEN_SIGMA, EVEN_SHORTEST, NUM_EVEN = 256, 0.4, 32, 3000
INPUT_SIGMA, INPUT_TOKENS = 0.8, (16, 2048)
OUTPUT_SIGMA, OUTPUT_TOKENS = 0.7, (16, 1536)


def draw_lengths() -> list[tuple[int, int]]:
    """(input, output) tokens of each request."""
    generator = np.random.RandomState(0)
    inputs = _log_normal(generator, INPUT_SIGMA, *INPUT_TOKENS)
    outputs = _log_normal(generator, OUTPUT_SIGMA, *OUTPUT_TOKENS)
    return list(zip(inputs[:NUM_USED], outputs[:NUM_USED], strict=True))


def _log_normal(
    generator: np.random.RandomState, sigma: float, shortest: int, longest: int
) -> list[int]:
    """The distribution's own mean is ``MEAN_TOKENS``."""
    location = np.log(MEAN_TOKENS) - sigma**2 / 2
    lengths = generator.lognormal(location, sigma, NUM_DRAWN)
    return [int(n) for n in np.clip(np.round(lengths), shortest, longest)]


def draw_even_lengths() -> list[tuple[int, int]]:
    generator = np.random.RandomState(0)
    location = np.log(EVEN_MEAN_TOKENS) - EVEN_SIGMA**2 / 2

    def draw(most: int) -> list[int]:
        lengths = np.exp(generator.normal(location, EVEN_SIGMA, NUM_EVEN))
        return [int(n) for n in np.clip(np.round(lengths), EVEN_SHORTEST, most)]

    return list(zip(draw(1024), draw(640), strict=True))


def write_lengths(lengths: Iterable[tuple[int, int]], path: Path) -> None:
    """A workload file as ``pipemax bench`` takes it: a line for each (input, output)."""
    with path.open("w", encoding="utf-8") as file:
        for seed, (prompt_tokens, output_tokens) in enumerate(lengths):
            line = {"prompt_tokens": prompt_tokens, "output_tokens": output_tokens, "seed": seed}
            file.write(json.dumps(line) + "\n")


def main(arguments: list[str]) -> int:
    path = Path(arguments[0])
    lengths = draw_even_lengths() if "--even" in arguments else draw_lengths()
    write_lengths(lengths, path)
    inputs, outputs = (sum(column) for column in zip(*lengths, strict=True))
    print(f"{path}: {len(lengths)} requests, {inputs} tokens in, {outputs} out")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
