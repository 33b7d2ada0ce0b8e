"""A request as the engine sees it: token ids and numbers, no text."""

from __future__ import annotations

import enum
from typing import Protocol

import msgspec

from pipemax_worker.contract.grammar import Grammar


class RecordKey(msgspec.Struct, frozen=True, order=True):
    """What identifies an input line: its file (as named relative to the input) and byte offset."""

    file: str
    offset: int


class SamplingParams(msgspec.Struct, frozen=True):
    """How the next token is chosen. Semantics are those of the OpenAI API and transformers.

    temperature      0 is greedy; the filters below do not apply then.
    top_k            0 is off.
    stop_token_ids   ends the text (finish reason ``stop``); includes the model's end-of-sequence
                     ids unless ``ignore_eos``. The stop token is not part of the text.
    min_tokens       stop tokens cannot be sampled before that many tokens.
    logprobs         None: none; k: the sampled token's and the k best (0 is allowed).
    grammar          None: any text. The mask comes before all else, so the filters choose among the
                     tokens that it leaves; it wins over ``min_tokens`` where only the end is left.
    Penalties: ``repetition_penalty`` counts prompt and output (transformers' form), presence and
    frequency count the output alone (OpenAI's form).
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    grammar: Grammar | None = None


class Request(msgspec.Struct, frozen=True):
    """One text to generate. ``n > 1`` is several requests with the same key and prompt.

    ``seed``: 64 bits; the random number for output position p is a function of (seed, p) alone.
    """

    key: RecordKey
    choice: int
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    seed: int = 0


class FinishReason(enum.StrEnum):
    STOP = "stop"
    LENGTH = "length"
    ERROR = "error"


class TokenLogprobs(msgspec.Struct, frozen=True):
    """Log-probabilities at one output position: the sampled token's, and the best ones, sorted."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class RequestProgress(msgspec.Struct, frozen=True):
    """How far an unfinished request is: what another engine needs to go on with it.

    output_token_ids      sampled so far, none of which ended the text.
    num_computed_tokens   positions whose KV is kept in ``nvme_slots``, one slot a block in order
                          (the last may be partly filled); 0: none, it is computed again.
    """

    key: RecordKey
    choice: int
    output_token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    num_computed_tokens: int = 0
    nvme_slots: tuple[int, ...] = ()


class StopChecker(Protocol):
    """Finds stop strings while tokens arrive. Made by ``prompts``, called by ``engine``."""

    def append(self, token_id: int) -> bool:
        """Take the next output token; True if the text now contains a stop string."""
        ...


class FinishedRequest(msgspec.Struct, frozen=True):
    """What the engine returns. ``token_ids`` has no stop token; with ``finish_reason`` ERROR,
    ``error_code`` and ``error_message`` say why and ``token_ids`` may be partial.
    ``num_cached_tokens``: prompt tokens whose KV was found in the prefix cache.
    """

    key: RecordKey
    choice: int
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    num_prompt_tokens: int
    num_cached_tokens: int = 0
    logprobs: tuple[TokenLogprobs, ...] | None = None
    error_code: str | None = None
    error_message: str | None = None
