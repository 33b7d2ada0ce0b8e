"""A model that needs no arithmetic: KV and tokens are hashes of the prefix."""

from __future__ import annotations

from collections.abc import Sequence

from pipemax_worker.contract.request import SamplingParams

STOP_TOKEN = 0
_MASK = (1 << 61) - 1


def prefix_hash(parent: int, token_id: int) -> int:
    """What the KV at a position depends on: its own token and all before it."""
    return (hash((parent, token_id)) * 0x9E3779B97F4A7C15 >> 3) & _MASK


def prefix_hashes(token_ids: Sequence[int]) -> list[int]:
    hashes, parent = [], 0
    for token_id in token_ids:
        parent = prefix_hash(parent, token_id)
        hashes.append(parent)
    return hashes


def next_token(last_hash: int, vocab_size: int, stop_probability: float) -> int:
    """The model: a token is a function of its prefix, ``STOP_TOKEN`` with ``stop_probability``."""
    if (last_hash >> 20) % 10_000 < stop_probability * 10_000:
        return STOP_TOKEN
    return 1 + (last_hash >> 7) % (vocab_size - 1)


def reference_output(
    prompt: Sequence[int], sampling: SamplingParams, vocab_size: int, stop_probability: float
) -> tuple[int, ...]:
    """What an engine must return for ``prompt``, one token at a time, without any KV."""
    hashes = prefix_hashes(prompt)
    outputs: list[int] = []
    while len(outputs) < sampling.max_tokens:
        token_id = next_token(hashes[-1], vocab_size, stop_probability)
        if token_id in sampling.stop_token_ids:
            break
        outputs.append(token_id)
        hashes.append(prefix_hash(hashes[-1], token_id))
    return tuple(outputs)


class PrefixText:
    """A request as the last stage knows it: prompt and all that it has sampled."""

    def __init__(self, token_ids: list[int], logprobs: int | None) -> None:
        self.token_ids = token_ids
        self.hashes = prefix_hashes(token_ids)
        self.logprobs = logprobs

    def append(self, token_id: int) -> None:
        self.token_ids.append(token_id)
        self.hashes.append(prefix_hash(self.hashes[-1], token_id))
