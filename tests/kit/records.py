"""Records as ``prompts`` makes them, without a model."""

from __future__ import annotations

from typing import Any


def make_record(offset: int, prompt_tokens: int = 3, completion_tokens: int = 2) -> dict[str, Any]:
    """A request that was served; its key is ``a.jsonl`` and ``offset``."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    body = {"object": "text_completion", "choices": [{"text": "é\n"}], "usage": usage}
    response = {"status_code": 200, "request_id": f"req-{offset}", "body": body}
    return _record(offset, response, None)


def make_failed_record(offset: int) -> dict[str, Any]:
    """A request that was refused."""
    error = {"code": "invalid_json", "message": "no JSON"}
    response = {"status_code": 400, "request_id": f"req-{offset}", "body": {"error": error}}
    return _record(offset, response, error)


def _record(
    offset: int, response: dict[str, Any] | None, error: dict[str, Any] | None
) -> dict[str, Any]:
    return {
        "id": f"batch_req_{offset}",
        "custom_id": f"custom-{offset}",
        "response": response,
        "error": error,
        "pipemax": {"file": "a.jsonl", "offset": offset, "line": None},
    }
