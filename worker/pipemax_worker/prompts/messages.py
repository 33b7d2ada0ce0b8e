"""The prompt in a body: chat messages, or a completion's text or token ids."""

from __future__ import annotations

from typing import Any

from pipemax_worker.errors import RequestError
from pipemax_worker.prompts.fields import (
    Fields,
    checked_integer,
    checked_string,
    describe,
    invalid_type,
)

_ROLES = ("system", "developer", "user", "assistant", "tool")

# Fields of an answer that come back in a conversation's history and say nothing when empty.
_NEUTRAL_MESSAGE_FIELDS: dict[str, tuple[object, ...]] = {
    "tool_calls": ([],),
    "annotations": ([],),
    "refusal": (),
    "audio": (),
    "function_call": (),
}


def take_messages(fields: Fields) -> list[dict[str, str]]:
    """The chat messages, as a chat template takes them: ``content`` is always one string.

    Text parts are joined by line feeds, as vLLM does it. Raises RequestError: ``missing_field``,
    ``invalid_type``, ``invalid_value``, ``empty_prompt``, ``unsupported_content`` (images, audio)
    and ``unsupported_parameter`` (tool calls, unknown fields of a message).
    """
    param = fields.param("messages")
    messages = fields.take_required("messages")
    if not isinstance(messages, list):
        raise invalid_type(param, "a list of messages", messages)
    if not messages:
        raise RequestError("empty_prompt", f"{param} holds no message", param)
    return [_message(value, f"{param}.{index}") for index, value in enumerate(messages)]


def _message(value: object, path: str) -> dict[str, str]:
    fields = Fields(value, path)
    role = fields.take_required("role")
    if role not in _ROLES:
        param = fields.param("role")
        reason = f"{param} must be one of {', '.join(_ROLES)}; found {describe(role)}"
        raise RequestError("invalid_value", reason, param)
    message = {"role": role, "content": _content(fields)}
    for name in ("name", "tool_call_id"):
        if (text := fields.take(name)) is not None:
            message[name] = checked_string(text, fields.param(name))
    fields.take_neutral(_NEUTRAL_MESSAGE_FIELDS)
    fields.refuse_rest()
    return message


def _content(fields: Fields) -> str:
    content = fields.take_required("content")
    if isinstance(content, str):
        return content
    param = fields.param("content")
    if not isinstance(content, list):
        raise invalid_type(param, "a string or a list of text parts", content)
    return "\n".join(_text_part(part, f"{param}.{index}") for index, part in enumerate(content))


def _text_part(value: object, path: str) -> str:
    part = Fields(value, path)
    kind = part.take_required("type")
    if kind != "text":
        param = part.param("type")
        message = f"{param}: only text parts are supported; found {describe(kind)}"
        raise RequestError("unsupported_content", message, param)
    text = part.take_required("text")
    if not isinstance(text, str):
        raise invalid_type(part.param("text"), "a string", text)
    part.refuse_rest()
    return text


def take_prompt(fields: Fields, vocab_size: int) -> str | tuple[int, ...]:
    """A completion's prompt: a text, or token ids. A list of one prompt is that prompt.

    Raises RequestError: ``missing_field``, ``invalid_type``, ``value_out_of_range``,
    ``empty_prompt``, and ``unsupported_parameter`` for several prompts in one line.
    """
    param = fields.param("prompt")
    prompt = fields.take_required("prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], (str, list)):
        if len(prompt) > 1:
            message = f"{param} holds {len(prompt)} prompts; give each a line of its own"
            raise RequestError("unsupported_parameter", message, param)
        prompt, param = prompt[0], f"{param}.0"
    if isinstance(prompt, list):
        return _token_ids(prompt, param, vocab_size)
    if not isinstance(prompt, str):
        raise invalid_type(param, "a string or a list of token ids", prompt)
    return prompt


def _token_ids(values: list[Any], param: str, vocab_size: int) -> tuple[int, ...]:
    return tuple(
        checked_integer(value, f"{param}.{index}", 0, vocab_size - 1)
        for index, value in enumerate(values)
    )
