"""Records: lines of the output in the OpenAI Batch form, with where they came from.

Every record carries ``"pipemax": {"file", "offset", "line"}``: the key of its input line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from pipemax_worker.contract.request import FinishedRequest, FinishReason, RecordKey
from pipemax_worker.errors import InvariantError, RequestError
from pipemax_worker.prompts.detokenizer import decode_until_stop
from pipemax_worker.prompts.line import Endpoint
from pipemax_worker.prompts.logprobs import chat_logprobs, completion_logprobs
from pipemax_worker.prompts.processor import PreparedLine

_BAD_REQUEST = 400


def build_response(
    prepared: PreparedLine,
    finished: Sequence[FinishedRequest],
    created: int,
    request_id: str | None = None,
) -> dict[str, Any]:
    """The record of a line whose choices have all finished, in any order.

    The body is a ``ChatCompletion`` or ``Completion`` of the OpenAI API. ``completion_tokens``
    counts the tokens returned by the engine, all choices together: those of a stop string are in,
    a stop token is not. ``cached_tokens`` counts what every choice found cached. ``created`` is in
    seconds since 1970; ``request_id`` is derived from the record's key unless given.

    If a choice ended in an error, the record is that error's. Raises InvariantError if ``finished``
    does not hold each choice once.
    """
    ordered = sorted(finished, key=lambda one: one.choice)
    if [one.choice for one in ordered] != list(range(len(prepared.requests))):
        raise InvariantError(
            f"{prepared.key}: {len(prepared.requests)} choices were asked for, and "
            f"{[one.choice for one in ordered]} finished"
        )
    for one in ordered:
        if one.finish_reason is FinishReason.ERROR:
            return _failed_record(prepared, one)
    body = _body(prepared, ordered, created)
    response = {
        "status_code": 200,
        "request_id": request_id or _id("req_", prepared.key),
        "body": body,
    }
    return _record(prepared.key, prepared.line_number, prepared.custom_id, response, None)


def _body(prepared: PreparedLine, ordered: list[FinishedRequest], created: int) -> dict[str, Any]:
    is_chat = prepared.endpoint is Endpoint.CHAT_COMPLETIONS
    make_choice = _chat_choice if is_chat else _completion_choice
    return {
        "id": _id("chatcmpl-" if is_chat else "cmpl-", prepared.key),
        "object": "chat.completion" if is_chat else "text_completion",
        "created": created,
        "model": prepared.model,
        "choices": [make_choice(prepared, one) for one in ordered],
        "usage": _usage(ordered),
    }


def _chat_choice(prepared: PreparedLine, finished: FinishedRequest) -> dict[str, Any]:
    logprobs = finished.logprobs
    return {
        "index": finished.choice,
        "message": {"role": "assistant", "content": _text(prepared, finished), "refusal": None},
        "logprobs": None if logprobs is None else chat_logprobs(prepared.tokenizer, logprobs),
        "finish_reason": finished.finish_reason.value,
    }


def _completion_choice(prepared: PreparedLine, finished: FinishedRequest) -> dict[str, Any]:
    logprobs = finished.logprobs
    return {
        "index": finished.choice,
        "text": _text(prepared, finished),
        "logprobs": None if logprobs is None else completion_logprobs(prepared.tokenizer, logprobs),
        "finish_reason": finished.finish_reason.value,
    }


def _text(prepared: PreparedLine, finished: FinishedRequest) -> str:
    min_tokens = prepared.requests[finished.choice].sampling.min_tokens
    return decode_until_stop(prepared.tokenizer, finished.token_ids, prepared.stop, min_tokens)


def _usage(ordered: list[FinishedRequest]) -> dict[str, Any]:
    """The prompt is counted once, whatever the number of choices."""
    prompt_tokens = ordered[0].num_prompt_tokens
    completion_tokens = sum(len(one.token_ids) for one in ordered)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": min(one.num_cached_tokens for one in ordered)},
    }


def build_error_record(
    key: RecordKey, line_number: int | None, custom_id: str | None, error: RequestError
) -> dict[str, Any]:
    """The record of a line that was refused: status 400 and the error in the form of the API.

    The record's own ``error`` says where the line is, so that it can be read by itself.
    """
    body = {
        "error": {
            "message": error.message,
            "type": "invalid_request_error",
            "param": error.param,
            "code": error.code,
        }
    }
    response = {"status_code": _BAD_REQUEST, "request_id": _id("req_", key), "body": body}
    return _record(key, line_number, custom_id, response, error)


def _failed_record(prepared: PreparedLine, finished: FinishedRequest) -> dict[str, Any]:
    """The line was good, and generating failed: there is no response."""
    error = RequestError(
        finished.error_code or "internal_error",
        finished.error_message or "the request failed without a reason",
    )
    return _record(prepared.key, prepared.line_number, prepared.custom_id, None, error)


def _record(
    key: RecordKey,
    line_number: int | None,
    custom_id: str | None,
    response: dict[str, Any] | None,
    error: RequestError | None,
) -> dict[str, Any]:
    at = f"byte {key.offset}" if line_number is None else f"line {line_number}"
    return {
        "id": _id("batch_req_", key),
        "custom_id": custom_id,
        "response": response,
        "error": error and {"code": error.code, "message": f"{key.file}, {at}: {error.message}"},
        "pipemax": {"file": key.file, "offset": key.offset, "line": line_number},
    }


def _id(prefix: str, key: RecordKey) -> str:
    """An id that a repeated attempt makes again: a hash of the record's key."""
    source = f"{key.file}\0{key.offset}".encode("utf-8", "surrogateescape")
    return f"{prefix}{hashlib.blake2b(source, digest_size=12).hexdigest()}"
