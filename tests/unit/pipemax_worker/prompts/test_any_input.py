"""Whatever a line holds: it is prepared, or refused with a RequestError."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.batch_lines import CHAT, KEY, line_of
from pipemax_worker.errors import RequestError
from pipemax_worker.prompts.line import read_custom_id
from pipemax_worker.prompts.processor import PreparedLine, PromptProcessor
from pipemax_worker.prompts.response import build_error_record
from pipemax_worker.prompts.settings import SamplingDefaults

JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
NAMES = [
    *SamplingDefaults.__struct_fields__,
    *("messages", "prompt", "model", "top_logprobs", "max_completion_tokens", "tools", "user"),
    *("chat_template_kwargs", "echo", "stream", "response_format"),
]
MESSAGES = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "name"]), JSON_VALUES)
    | st.fixed_dictionaries({"role": st.just("user"), "content": st.text() | JSON_VALUES})
)
BODIES = st.dictionaries(st.sampled_from(NAMES), JSON_VALUES, max_size=4)


def _prepared_or_refused(processor: PromptProcessor, data: bytes) -> None:
    try:
        prepared = processor.prepare(data, KEY, None)
    except RequestError as error:
        build_error_record(KEY, None, read_custom_id(data), error)
    else:
        assert isinstance(prepared, PreparedLine)
        msgspec.msgpack.encode(prepared.requests)


@given(data=st.binary(max_size=60) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_prepared_or_refused(processor: PromptProcessor, data: bytes) -> None:
    _prepared_or_refused(processor, data)
    read_custom_id(data)


@given(body=BODIES, messages=MESSAGES, as_chat=st.booleans(), keep=st.booleans())
def test_any_body_is_prepared_or_refused(
    processor: PromptProcessor, body: Any, messages: Any, as_chat: bool, keep: bool
) -> None:
    if as_chat:
        body = body | {"messages": messages if keep else CHAT["messages"]}
    elif keep:
        body = body | {"prompt": "Hello"}
    _prepared_or_refused(processor, line_of(body))


@pytest.mark.parametrize("digits", [30, 1000, 4299, 5000, 100_000])
def test_huge_numbers_are_refused(processor: PromptProcessor, digits: int) -> None:
    for number in ("9" * digits, "0." + "9" * digits, "1e" + "9" * min(digits, 400)):
        data = line_of({"prompt": "x", "n": 0}).replace(b'"n": 0', b'"n": ' + number.encode())
        _prepared_or_refused(processor, data)
        with pytest.raises(RequestError):
            processor.prepare(data, KEY, 3)
