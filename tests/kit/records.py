"""Records as ``prompts`` makes them, without a model."""

from __future__ import annotations

from typing import Any


def make_record(
    custom_id: str, prompt_tokens: int = 3, completion_tokens: int = 2
) -> dict[str, Any]:
    """A request that was served."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    body = {"object": "text_completion", "choices": [{"text": "é\n"}], "usage": usage}
    return {
        "id": f"batch_req_{custom_id}",
        "custom_id": custom_id,
        "response": {"status_code": 200, "request_id": custom_id, "body": body},
        "error": None,
    }


def make_failed_record(custom_id: str) -> dict[str, Any]:
    """A request that became an error."""
    error = {"code": "invalid_json", "message": "no JSON"}
    return {
        "id": f"batch_req_{custom_id}",
        "custom_id": custom_id,
        "response": None,
        "error": error,
    }
