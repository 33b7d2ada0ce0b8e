"""Input lines in the OpenAI Batch form."""

import json
from typing import Any

from pipemax_worker.contract.request import RecordKey

KEY = RecordKey("prompts.jsonl", 4096)
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}
TEXT: dict[str, Any] = {"prompt": "Hello world"}


def line_of(body: Any, url: Any = None, **envelope: Any) -> bytes:
    """A line with this body; the url follows from the body unless given."""
    if url is None:
        is_chat = isinstance(body, dict) and "messages" in body
        url = "/v1/chat/completions" if is_chat else "/v1/completions"
    line = {"custom_id": "a", "method": "POST", "url": url, "body": body} | envelope
    return json.dumps(line).encode()
