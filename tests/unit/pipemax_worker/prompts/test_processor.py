"""Bodies and the requests that they become."""

from typing import Any

import msgspec
import pytest
from kit.batch_lines import CHAT, KEY, TEXT, line_of
from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.contract.request import RecordKey, SamplingParams
from pipemax_worker.errors import RequestError
from pipemax_worker.prompts.line import Endpoint
from pipemax_worker.prompts.processor import PromptProcessor
from pipemax_worker.prompts.settings import PromptSettings, SamplingDefaults
from pipemax_worker.prompts.tokenizer import Tokenizer


def sampling_of(processor: PromptProcessor, body: dict[str, Any]) -> SamplingParams:
    return processor.prepare(line_of(body), KEY, 3).requests[0].sampling


def test_a_chat_becomes_a_request(processor: PromptProcessor, byte_level: Tokenizer) -> None:
    prepared = processor.prepare(line_of(CHAT), KEY, 3)
    assert (prepared.custom_id, prepared.line_number, prepared.model) == ("a", 3, "tiny")
    assert prepared.endpoint is Endpoint.CHAT_COMPLETIONS
    (request,) = prepared.requests
    assert request.key == KEY
    assert list(request.prompt_token_ids) == byte_level.apply_chat_template(CHAT["messages"])
    room = 100 - len(request.prompt_token_ids)
    # ends at the ids of config.json (0 and 7) and of the tokenizer (2)
    assert request.sampling == SamplingParams(max_tokens=room, stop_token_ids=(0, 7, 2))
    assert prepared.stop_checker(0) is None


@pytest.mark.parametrize(
    "prompt", ["Hello world", ["Hello world"], [355, 350], [[355, 350]]], ids=str
)
def test_a_completion_takes_text_or_token_ids(
    processor: PromptProcessor, byte_level: Tokenizer, prompt: Any
) -> None:
    (request,) = processor.prepare(line_of({"prompt": prompt}), KEY, 3).requests
    assert byte_level.decode(list(request.prompt_token_ids)) == "Hello world"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"temperature": 0.7, "top_p": 0.9, "min_p": 0.1}, {"top_p": 0.9, "min_p": 0.1}),
        ({"top_k": 40}, {"top_k": 40}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"repetition_penalty": 1.2}, {"repetition_penalty": 1.2}),
        ({"presence_penalty": -2, "frequency_penalty": 2}, {"presence_penalty": -2.0}),
        ({"frequency_penalty": 2}, {"frequency_penalty": 2.0}),
        ({"logit_bias": {"5": -100, "999": 1.5}}, {"logit_bias": {5: -100.0, 999: 1.5}}),
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_tokens": 5, "min_tokens": 5}, {"max_tokens": 5, "min_tokens": 5}),
        ({"stop_token_ids": [9, 0]}, {"stop_token_ids": (0, 7, 2, 9)}),
        ({"ignore_eos": True}, {"stop_token_ids": ()}),
        ({"ignore_eos": True, "stop_token_ids": [9]}, {"stop_token_ids": (9,)}),
    ],
    ids=str,
)
@pytest.mark.parametrize("body", [CHAT, TEXT], ids=["chat", "text"])
def test_parameters(
    processor: PromptProcessor,
    body: dict[str, Any],
    fields: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    plain = msgspec.structs.asdict(sampling_of(processor, body))
    sampling = msgspec.structs.asdict(sampling_of(processor, body | fields))
    assert sampling | expected == sampling
    if len(fields) == 1:
        assert plain | expected == sampling


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (CHAT, None),
        (CHAT | {"logprobs": True}, 0),
        (CHAT | {"logprobs": True, "top_logprobs": 20}, 20),
        (CHAT | {"logprobs": False, "top_logprobs": 0}, None),
        (TEXT | {"logprobs": 5}, 5),
        (TEXT | {"logprobs": 0}, 0),
        (TEXT | {"logprobs": False}, None),
        (CHAT | {"max_completion_tokens": 3}, None),
    ],
    ids=str,
)
def test_logprobs(processor: PromptProcessor, body: dict[str, Any], expected: int | None) -> None:
    assert sampling_of(processor, body).logprobs == expected


def test_max_completion_tokens_is_max_tokens(processor: PromptProcessor) -> None:
    assert sampling_of(processor, CHAT | {"max_completion_tokens": 3}).max_tokens == 3
    assert sampling_of(processor, CHAT | {"max_completion_tokens": 3, "max_tokens": 3})
    body = CHAT | {"max_completion_tokens": 3, "max_tokens": 4}
    with pytest.raises(RequestError, match=r"body.max_tokens and .* differ"):
        sampling_of(processor, body)


@pytest.mark.parametrize(
    "fields",
    [
        {"model": None, "temperature": None, "n": None, "stop": None, "response_format": None},
        {"n": 1, "stream": False, "stop": []},
        {"user": "u", "metadata": {"a": 1}, "store": True, "service_tier": "flex"},
    ],
    ids=str,
)
@pytest.mark.parametrize("body", [CHAT, TEXT], ids=["chat", "text"])
def test_what_asks_for_nothing_changes_nothing(
    processor: PromptProcessor, body: dict[str, Any], fields: dict[str, Any]
) -> None:
    plain = processor.prepare(line_of(body), KEY, 3)
    assert processor.prepare(line_of(body | fields), KEY, 3) == plain


@pytest.mark.parametrize(
    "body",
    [
        CHAT | {"logprobs": False, "tools": [], "tool_choice": "none"},
        CHAT | {"response_format": {"type": "text"}, "modalities": ["text"]},
        CHAT | {"parallel_tool_calls": True, "functions": []},
        TEXT | {"best_of": 1, "echo": False, "suffix": ""},
    ],
    ids=str,
)
def test_neutral_values_are_accepted(processor: PromptProcessor, body: dict[str, Any]) -> None:
    assert processor.prepare(line_of(body), KEY, 3).requests


def test_text_parts_are_joined(processor: PromptProcessor, byte_level: Tokenizer) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    (request,) = processor.prepare(
        line_of({"messages": [{"role": "user", "content": parts}]}), KEY, 3
    ).requests
    assert "user\none\ntwo\n" in byte_level.decode(list(request.prompt_token_ids))


@pytest.mark.parametrize("name", ["tiny", "gpt-4", "tiny-2"])
def test_the_model_goes_by_its_name_and_aliases(processor: PromptProcessor, name: str) -> None:
    assert processor.prepare(line_of(CHAT | {"model": name}), KEY, 3).model == name


def test_a_byte_order_mark_is_no_fault(processor: PromptProcessor) -> None:
    assert processor.prepare(b"\xef\xbb\xbf" + line_of(CHAT), KEY, 1).custom_id == "a"


def test_a_body_wins_over_the_job(byte_level: Tokenizer, model_config: ModelConfig) -> None:
    defaults = SamplingDefaults(
        max_tokens=500, min_tokens=2, temperature=0.0, top_k=5, stop=("end",), logprobs=2, n=2
    )
    processor = PromptProcessor(byte_level, model_config, PromptSettings("m", 50, (), defaults))
    prepared = processor.prepare(line_of({"prompt": [5] * 40}), KEY, 3)
    sampling = prepared.requests[0].sampling
    assert (sampling.temperature, sampling.top_k, sampling.logprobs) == (0.0, 5, 2)
    assert (sampling.min_tokens, sampling.max_tokens) == (2, 10)  # 500 is clipped to the room
    assert len(prepared.requests) == 2
    assert prepared.stop == ("end",)
    assert prepared.stop_checker(1) is not None

    body = CHAT | {"temperature": 1, "stop": [], "logprobs": False, "n": 1, "max_tokens": 1}
    prepared = processor.prepare(line_of(body | {"min_tokens": 0}), KEY, 3)
    sampling = prepared.requests[0].sampling
    assert (sampling.temperature, sampling.top_k, sampling.logprobs) == (1.0, 5, None)
    assert (sampling.max_tokens, prepared.stop, len(prepared.requests)) == (1, (), 1)


def test_seeds(processor: PromptProcessor) -> None:
    def seeds(body: dict[str, Any], key: RecordKey = KEY) -> list[int]:
        return [request.seed for request in processor.prepare(line_of(body), key, 3).requests]

    by_key = seeds(TEXT | {"n": 3})
    assert len(set(by_key)) == 3
    assert by_key == seeds(CHAT | {"n": 3})  # the key alone decides
    assert by_key[:1] == seeds(TEXT)
    other = RecordKey("prompts.jsonl", 0)
    assert not set(by_key) & set(seeds(TEXT | {"n": 3}, other))
    by_body = seeds(TEXT | {"n": 3, "seed": 7})
    assert by_body == seeds(TEXT | {"n": 3, "seed": 7}, other)
    assert not set(by_body) & set(seeds(TEXT | {"n": 3, "seed": 8}))
    assert all(0 <= seed < 2**64 for seed in by_key + by_body)
    assert by_key[0] == 1729311749489667299  # fixed for ever: resumed jobs rely on it


def test_defaults_out_of_a_bodys_bounds_are_the_jobs_affair(
    byte_level: Tokenizer, model_config: ModelConfig
) -> None:
    """The job's values are checked with the job; a line cannot be blamed for them."""
    settings = PromptSettings("m", 50, (), SamplingDefaults(temperature=0.001))
    processor = PromptProcessor(byte_level, model_config, settings)
    assert processor.prepare(line_of(TEXT), KEY, 3).requests[0].sampling.temperature == 0.001
