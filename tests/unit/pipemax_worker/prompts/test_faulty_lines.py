"""Every way in which a line can be wrong has its code and its field."""

from typing import Any

import pytest
from kit.batch_lines import CHAT, KEY, TEXT, line_of
from pipemax_worker.errors import RequestError
from pipemax_worker.prompts.processor import PromptProcessor


def fault_of(processor: PromptProcessor, data: bytes) -> tuple[str, str | None]:
    with pytest.raises(RequestError) as caught:
        processor.prepare(data, KEY, 3)
    assert caught.value.message
    return caught.value.code, caught.value.param


MESSAGE = "body.messages.0"


@pytest.mark.parametrize(
    ("data", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b'{"a": NaN}', "invalid_json", None),
        (b'"\\ud800"', "invalid_json", None),
        (b"[" * 100_000, "invalid_json", None),
        (b'{"custom_id": "\xe9"}', "invalid_encoding", None),
        (b"[1]", "invalid_type", None),
        (b"null", "invalid_type", None),
        (b"{}", "missing_field", "custom_id"),
        (line_of(CHAT, custom_id=""), "invalid_value", "custom_id"),
        (line_of(CHAT, custom_id=7), "invalid_type", "custom_id"),
        (line_of(CHAT, method=None), "missing_field", "method"),
        (line_of(CHAT, method="GET"), "invalid_method", "method"),
        (line_of(CHAT, url="/v1/embeddings"), "unknown_url", "url"),
        (line_of(CHAT, url=["/v1"]), "unknown_url", "url"),
        (line_of(None), "missing_field", "body"),
        (line_of("Hello"), "invalid_type", "body"),
        (line_of(CHAT, priority=1), "unsupported_parameter", "priority"),
    ],
)
def test_faulty_lines(
    processor: PromptProcessor, data: bytes, code: str, param: str | None
) -> None:
    assert fault_of(processor, data) == (code, param)


def _messages(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


def _user(content: Any, **fields: Any) -> dict[str, Any]:
    return _messages({"role": "user", "content": content} | fields)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (CHAT | {"model": "gpt-5"}, "model_not_found", "body.model"),
        (CHAT | {"model": 5}, "invalid_type", "body.model"),
        # prompts
        (_messages(), "empty_prompt", "body.messages"),
        ({"messages": "Hello"}, "invalid_type", "body.messages"),
        (_messages("Hello"), "invalid_type", MESSAGE),
        (_messages({"role": "user"}), "missing_field", f"{MESSAGE}.content"),
        (_messages({"content": "x"}), "missing_field", f"{MESSAGE}.role"),
        (_messages({"role": "robot", "content": "x"}), "invalid_value", f"{MESSAGE}.role"),
        (_messages({"role": ["user"], "content": "x"}), "invalid_value", f"{MESSAGE}.role"),
        (_messages({"role": "developer", "content": ""}), "chat_template_failed", "body.messages"),
        (_user(7), "invalid_type", f"{MESSAGE}.content"),
        (_user(["x"]), "invalid_type", f"{MESSAGE}.content.0"),
        (_user([{"type": "image_url"}]), "unsupported_content", f"{MESSAGE}.content.0.type"),
        (_user([{"type": "text"}]), "missing_field", f"{MESSAGE}.content.0.text"),
        (_user("x", tool_calls=[{}]), "unsupported_parameter", f"{MESSAGE}.tool_calls"),
        (_user("x", extra=1), "unsupported_parameter", f"{MESSAGE}.extra"),
        (_user("x " * 200), "context_length_exceeded", "body.messages"),
        ({"prompt": ""}, "empty_prompt", "body.prompt"),
        ({"prompt": []}, "empty_prompt", "body.prompt"),
        ({"prompt": ["a", "b"]}, "unsupported_parameter", "body.prompt"),
        ({"prompt": [1, "b"]}, "invalid_type", "body.prompt.1"),
        ({"prompt": [[1, 1000]]}, "value_out_of_range", "body.prompt.0.1"),
        ({"prompt": {}}, "invalid_type", "body.prompt"),
        ({"prompt": [5] * 100}, "context_length_exceeded", "body.prompt"),
        (TEXT | {"max_tokens": 99}, "context_length_exceeded", "body.max_tokens"),
        ({}, "missing_field", "body.prompt"),
        # what belongs to the other url, or to nobody
        (TEXT | {"top_logprobs": 1}, "unsupported_parameter", "body.top_logprobs"),
        (CHAT | {"prompt": "x"}, "unsupported_parameter", "body.prompt"),
        (CHAT | {"echo": False}, "unsupported_parameter", "body.echo"),
        (TEXT | {"echo": True}, "unsupported_parameter", "body.echo"),
        (TEXT | {"best_of": True}, "unsupported_parameter", "body.best_of"),
        (CHAT | {"stream": True}, "unsupported_parameter", "body.stream"),
        (CHAT | {"stream": 0}, "unsupported_parameter", "body.stream"),
        (CHAT | {"tools": [{}]}, "unsupported_parameter", "body.tools"),
        (
            CHAT | {"response_format": {"type": "json_object"}},
            "unsupported_parameter",
            "body.response_format",
        ),
        (CHAT | {"temprature": 1}, "unsupported_parameter", "body.temprature"),
        # values
        (TEXT | {"temperature": "hot"}, "invalid_type", "body.temperature"),
        (TEXT | {"temperature": True}, "invalid_type", "body.temperature"),
        (TEXT | {"temperature": 2.1}, "value_out_of_range", "body.temperature"),
        (TEXT | {"temperature": 1e-9}, "value_out_of_range", "body.temperature"),
        (TEXT | {"top_p": 0}, "value_out_of_range", "body.top_p"),
        (TEXT | {"top_k": -2}, "value_out_of_range", "body.top_k"),
        (TEXT | {"top_k": 1.0}, "invalid_type", "body.top_k"),
        (TEXT | {"min_p": 1.1}, "value_out_of_range", "body.min_p"),
        (TEXT | {"repetition_penalty": 0}, "value_out_of_range", "body.repetition_penalty"),
        (TEXT | {"presence_penalty": 3}, "value_out_of_range", "body.presence_penalty"),
        (TEXT | {"frequency_penalty": -3}, "value_out_of_range", "body.frequency_penalty"),
        (TEXT | {"seed": 1.5}, "invalid_type", "body.seed"),
        (TEXT | {"seed": 2**64}, "value_out_of_range", "body.seed"),
        (TEXT | {"n": 0}, "value_out_of_range", "body.n"),
        (TEXT | {"n": 129}, "value_out_of_range", "body.n"),
        (TEXT | {"max_tokens": 0}, "value_out_of_range", "body.max_tokens"),
        (TEXT | {"max_tokens": 2, "min_tokens": 3}, "value_out_of_range", "body.min_tokens"),
        (TEXT | {"ignore_eos": 1}, "invalid_type", "body.ignore_eos"),
        (TEXT | {"logprobs": 21}, "value_out_of_range", "body.logprobs"),
        (TEXT | {"logprobs": True}, "invalid_type", "body.logprobs"),
        (CHAT | {"logprobs": 1}, "invalid_type", "body.logprobs"),
        (CHAT | {"top_logprobs": 1}, "invalid_value", "body.top_logprobs"),
        (TEXT | {"stop": ""}, "invalid_value", "body.stop"),
        (TEXT | {"stop": ["x", ""]}, "invalid_value", "body.stop.1"),
        (TEXT | {"stop": ["x"] * 17}, "value_out_of_range", "body.stop"),
        (TEXT | {"stop": 5}, "invalid_type", "body.stop"),
        (TEXT | {"stop_token_ids": [1000]}, "value_out_of_range", "body.stop_token_ids.0"),
        (TEXT | {"logit_bias": []}, "invalid_type", "body.logit_bias"),
        (TEXT | {"logit_bias": {"x": 1}}, "invalid_type", "body.logit_bias.x"),
        (TEXT | {"logit_bias": {"1000": 1}}, "value_out_of_range", "body.logit_bias.1000"),
        (TEXT | {"logit_bias": {"1": 101}}, "value_out_of_range", "body.logit_bias.1"),
        (CHAT | {"chat_template_kwargs": 1}, "invalid_type", "body.chat_template_kwargs"),
        (
            CHAT | {"chat_template_kwargs": {"tokenize": True}},
            "unsupported_parameter",
            "body.chat_template_kwargs.tokenize",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_faulty_bodies(
    processor: PromptProcessor, body: dict[str, Any], code: str, param: str
) -> None:
    assert fault_of(processor, line_of(body)) == (code, param)
