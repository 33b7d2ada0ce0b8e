"""Records: valid by the openai package's own types, with the right text, usage and logprobs."""

import json
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion
from pipemax_worker.contract.request import (
    FinishedRequest,
    FinishReason,
    RecordKey,
    TokenLogprobs,
)
from pipemax_worker.errors import InvariantError, RequestError
from pipemax_worker.prompts.processor import PreparedLine, PromptProcessor
from pipemax_worker.prompts.response import build_error_record, build_response
from pipemax_worker.prompts.tokenizer import Tokenizer

KEY = RecordKey("prompts.jsonl", 4096)
CREATED = 1_790_000_000


def prepare(processor: PromptProcessor, **body: Any) -> PreparedLine:
    is_chat = "prompt" not in body
    if is_chat:
        body["messages"] = [{"role": "user", "content": "Hello"}]
    url = "/v1/chat/completions" if is_chat else "/v1/completions"
    line = {"custom_id": "a", "method": "POST", "url": url, "body": body}
    return processor.prepare(json.dumps(line).encode(), KEY, 3)


def finish(prepared: PreparedLine, text: str, choice: int = 0, **fields: Any) -> FinishedRequest:
    request = prepared.requests[choice]
    given: dict[str, Any] = {
        "key": KEY,
        "choice": choice,
        "token_ids": tuple(prepared.tokenizer.encode(text)),
        "finish_reason": FinishReason.STOP,
        "num_prompt_tokens": len(request.prompt_token_ids),
    }
    return FinishedRequest(**given | fields)


def body_of(record: dict[str, Any]) -> dict[str, Any]:
    """The body after a way through JSON."""
    body: dict[str, Any] = json.loads(json.dumps(record, allow_nan=False))["response"]["body"]
    return body


def test_a_chat_record(processor: PromptProcessor) -> None:
    prepared = prepare(processor, model="gpt-4")
    record = build_response(prepared, [finish(prepared, "Hi there 😀")], CREATED, "req-7")
    assert list(record) == ["id", "custom_id", "response", "error", "pipemax"]
    assert record["custom_id"] == "a"
    assert record["error"] is None
    assert record["pipemax"] == {"file": "prompts.jsonl", "offset": 4096, "line": 3}
    assert record["response"]["status_code"] == 200
    assert record["response"]["request_id"] == "req-7"
    body = body_of(record)
    chat = ChatCompletion.model_validate(body, strict=True)
    assert chat.model_dump(exclude_unset=True) == body
    assert chat.choices[0].message.content == "Hi there 😀"
    assert (chat.model, chat.created, chat.object) == ("gpt-4", CREATED, "chat.completion")
    assert chat.id.startswith("chatcmpl-")
    assert chat.choices[0].logprobs is None


def test_a_completion_record(processor: PromptProcessor) -> None:
    prepared = prepare(processor, prompt="Hello")
    finished = finish(prepared, " world", finish_reason=FinishReason.LENGTH)
    body = body_of(build_response(prepared, [finished], CREATED))
    completion = Completion.model_validate(body, strict=True)
    assert completion.model_dump(exclude_unset=True) == body
    assert completion.choices[0].text == " world"
    assert completion.choices[0].finish_reason == "length"
    assert completion.id.startswith("cmpl-")


def test_ids_are_the_same_for_every_attempt_and_differ_by_line(processor: PromptProcessor) -> None:
    prepared = prepare(processor)
    first, again = (build_response(prepared, [finish(prepared, "x")], CREATED) for _ in range(2))
    assert first == again
    other = build_error_record(RecordKey("prompts.jsonl", 0), 1, "a", RequestError("c", "m"))
    assert other["id"] != first["id"]


def test_choices_are_in_order_and_the_prompt_counts_once(processor: PromptProcessor) -> None:
    prepared = prepare(processor, n=3)
    finished = [
        finish(prepared, text, choice, num_cached_tokens=cached)
        for choice, text, cached in ((2, "three", 8), (0, "one", 4), (1, "two", 8))
    ]
    chat = ChatCompletion.model_validate(body_of(build_response(prepared, finished, CREATED)))
    assert [choice.index for choice in chat.choices] == [0, 1, 2]
    assert [choice.message.content for choice in chat.choices] == ["one", "two", "three"]
    assert chat.usage is not None
    num_prompt_tokens = len(prepared.requests[0].prompt_token_ids)
    num_output_tokens = sum(len(one.token_ids) for one in finished)
    assert chat.usage.prompt_tokens == num_prompt_tokens
    assert chat.usage.completion_tokens == num_output_tokens
    assert chat.usage.total_tokens == num_prompt_tokens + num_output_tokens
    assert chat.usage.prompt_tokens_details is not None
    assert chat.usage.prompt_tokens_details.cached_tokens == 4


def test_a_missing_or_doubled_choice_is_a_bug(processor: PromptProcessor) -> None:
    prepared = prepare(processor, n=2)
    one = finish(prepared, "one")
    for finished in ([], [one], [one, one]):
        with pytest.raises(InvariantError, match="2 choices were asked for"):
            build_response(prepared, finished, CREATED)


def test_the_text_ends_before_the_stop_string(processor: PromptProcessor) -> None:
    prepared = prepare(processor, stop=["END", "wor"])
    checker = prepared.stop_checker(0)
    assert checker is not None
    finished = finish(prepared, "Hello world")
    taken = next(n for n, one in enumerate(finished.token_ids, 1) if checker.append(one))
    finished = finish(prepared, "", token_ids=finished.token_ids[:taken])
    chat = ChatCompletion.model_validate(body_of(build_response(prepared, [finished], CREATED)))
    assert chat.choices[0].message.content == "Hello "
    assert chat.usage is not None
    assert chat.usage.completion_tokens == taken


def _positions(tokenizer: Tokenizer, text: str) -> tuple[TokenLogprobs, ...]:
    other = tokenizer.encode("a")[0]
    return tuple(
        TokenLogprobs(token_id, -0.5, ((token_id, -0.5), (other, float("-inf"))))
        for token_id in tokenizer.encode(text)
    )


def test_chat_logprobs(processor: PromptProcessor, byte_level: Tokenizer) -> None:
    prepared = prepare(processor, logprobs=True, top_logprobs=2)
    positions = _positions(byte_level, "Hello 😀")
    finished = finish(prepared, "Hello 😀", logprobs=positions)
    body = body_of(build_response(prepared, [finished], CREATED))
    chat = ChatCompletion.model_validate(body, strict=True)
    assert chat.model_dump(exclude_unset=True) == body
    assert chat.choices[0].logprobs is not None
    content = chat.choices[0].logprobs.content
    assert content is not None
    assert len(content) == len(finished.token_ids)
    assert content[0].token == "Hello"
    assert content[-1].token == "bytes:\\x80"
    assert bytes(b for one in content for b in one.bytes or ()).decode() == "Hello 😀"
    best = content[0].top_logprobs
    assert [one.token for one in best] == ["Hello", "a"]
    assert [one.logprob for one in best] == [-0.5, -9999.0]


def test_completion_logprobs(processor: PromptProcessor, byte_level: Tokenizer) -> None:
    prepared = prepare(processor, prompt="x", logprobs=2)
    finished = finish(prepared, "Hello 😀!", logprobs=_positions(byte_level, "Hello 😀!"))
    body = body_of(build_response(prepared, [finished], CREATED))
    completion = Completion.model_validate(body, strict=True)
    assert completion.model_dump(exclude_unset=True) == body
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.tokens[0] == "Hello"
    assert logprobs.tokens[-1] == "!"
    assert logprobs.token_logprobs == [-0.5] * len(finished.token_ids)
    assert logprobs.top_logprobs is not None
    assert logprobs.top_logprobs[0] == {"Hello": -0.5, "a": -9999.0}
    # the emoji's four tokens begin at one character
    assert logprobs.text_offset == [0, 5, 6, 6, 6, 6, 7]


def test_a_refused_line(processor: PromptProcessor) -> None:
    error = RequestError("invalid_type", "body.seed must be an integer", "body.seed")
    record = json.loads(json.dumps(build_error_record(KEY, 3, "a", error)))
    assert record["custom_id"] == "a"
    assert record["error"] == {
        "code": "invalid_type",
        "message": "prompts.jsonl, line 3: body.seed must be an integer",
    }
    assert record["response"]["status_code"] == 400
    assert record["response"]["body"]["error"] == {
        "message": "body.seed must be an integer",
        "type": "invalid_request_error",
        "param": "body.seed",
        "code": "invalid_type",
    }
    assert record["pipemax"] == {"file": "prompts.jsonl", "offset": 4096, "line": 3}
    unknown = build_error_record(KEY, None, None, error)
    assert unknown["custom_id"] is None
    assert unknown["error"]["message"].startswith("prompts.jsonl, byte 4096: ")


def test_a_choice_that_failed_makes_an_error_record(processor: PromptProcessor) -> None:
    prepared = prepare(processor, n=2)
    failed = finish(
        prepared,
        "",
        choice=1,
        finish_reason=FinishReason.ERROR,
        error_code="stage_died",
        error_message="this request killed a stage three times",
    )
    record = build_response(prepared, [failed, finish(prepared, "fine")], CREATED)
    assert record["response"] is None
    assert record["custom_id"] == "a"
    assert record["error"] == {
        "code": "stage_died",
        "message": "prompts.jsonl, line 3: this request killed a stage three times",
    }
