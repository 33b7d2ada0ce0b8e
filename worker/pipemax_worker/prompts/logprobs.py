"""Log-probabilities in the two forms of the OpenAI API."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pipemax_worker.contract.request import TokenLogprobs
from pipemax_worker.prompts.detokenizer import Detokenizer
from pipemax_worker.prompts.tokenizer import Tokenizer

# JSON has no infinities; OpenAI's stand-in for a token that cannot be.
_LOWEST_LOGPROB = -9999.0


def chat_logprobs(tokenizer: Tokenizer, positions: Sequence[TokenLogprobs]) -> dict[str, Any]:
    """``choices[i].logprobs`` of a chat completion: one entry for each output token."""
    content = [
        _chat_entry(tokenizer, position.token_id, position.logprob)
        | {"top_logprobs": [_chat_entry(tokenizer, *best) for best in position.top]}
        for position in positions
    ]
    return {"content": content, "refusal": None}


def _chat_entry(tokenizer: Tokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    return {
        "token": token_name(tokenizer, token_id),
        "logprob": _finite(logprob),
        "bytes": list(tokenizer.token_bytes(token_id)),
    }


def completion_logprobs(tokenizer: Tokenizer, positions: Sequence[TokenLogprobs]) -> dict[str, Any]:
    """``choices[i].logprobs`` of a completion. ``text_offset`` counts characters from the start of
    the generated text; a token that continues a character has that character's offset."""
    return {
        "tokens": [token_name(tokenizer, position.token_id) for position in positions],
        "token_logprobs": [_finite(position.logprob) for position in positions],
        "top_logprobs": [
            {
                token_name(tokenizer, token_id): _finite(logprob)
                for token_id, logprob in (*position.top, (position.token_id, position.logprob))
            }
            for position in positions
        ],
        "text_offset": _text_offsets(tokenizer, positions),
    }


def _text_offsets(tokenizer: Tokenizer, positions: Sequence[TokenLogprobs]) -> list[int]:
    detokenizer = Detokenizer(tokenizer)
    offsets, offset = [], 0
    for position in positions:
        offsets.append(offset)
        offset += len(detokenizer.append(position.token_id))
    return offsets


def token_name(tokenizer: Tokenizer, token_id: int) -> str:
    """A token's text, or OpenAI's ``bytes:\\xf0\\x9f`` for a part of a character."""
    data = tokenizer.token_bytes(token_id)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _finite(logprob: float) -> float:
    return max(logprob, _LOWEST_LOGPROB) if not math.isnan(logprob) else _LOWEST_LOGPROB
