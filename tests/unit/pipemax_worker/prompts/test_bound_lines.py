"""Lines with a `response_format` become requests with a grammar, or are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.batch_lines import CHAT, KEY, TEXT, line_of
from kit.tokenizer import build_tokenizer_folder
from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.contract.request import SamplingParams
from pipemax_worker.errors import RequestError
from pipemax_worker.prompts.processor import PromptProcessor
from pipemax_worker.prompts.settings import PromptSettings, SamplingDefaults
from pipemax_worker.prompts.tokenizer import load_tokenizer

ANY_OBJECT = {"response_format": {"type": "json_object"}}
ENDS = (0, 7, 2)  # those of config.json and of the tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tokenizer_folder(tmp_path_factory.mktemp("bound"))


@pytest.fixture(scope="module")
def bound(folder: Path, model_config: ModelConfig) -> Iterator[PromptProcessor]:
    processor = PromptProcessor(
        load_tokenizer(folder), model_config, PromptSettings("m", 100), folder / "tokenizer.json"
    )
    yield processor
    processor.close()


def sampling_of(processor: PromptProcessor, body: dict[str, Any]) -> SamplingParams:
    return processor.prepare(line_of(body), KEY, 3).requests[0].sampling


def with_schema(schema: Any) -> dict[str, Any]:
    inner = {"name": "n", "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": inner}}


@pytest.mark.parametrize("body", [CHAT, TEXT], ids=["chat", "text"])
def test_both_urls_take_it(bound: PromptProcessor, body: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    grammar = sampling_of(bound, body | with_schema(schema)).grammar
    assert grammar is not None
    assert grammar.end_token_ids == ENDS
    assert grammar.text.index('"b"') < grammar.text.index('"a"'), "properties keep their order"


def test_free_lines_have_no_grammar(bound: PromptProcessor) -> None:
    assert sampling_of(bound, TEXT).grammar is None
    assert sampling_of(bound, TEXT | {"response_format": {"type": "text"}}).grammar is None


def test_all_choices_share_one_grammar(bound: PromptProcessor) -> None:
    requests = bound.prepare(line_of(TEXT | ANY_OBJECT | {"n": 3}), KEY, 3).requests
    assert len({id(request.sampling.grammar) for request in requests}) == 1


def test_ignore_eos_does_not_outlast_a_grammar(folder: Path, model_config: ModelConfig) -> None:
    """Nothing may follow a complete answer, whoever asks to go on: the line or the job."""
    defaults = SamplingDefaults(ignore_eos=True)
    processor = PromptProcessor(
        load_tokenizer(folder),
        model_config,
        PromptSettings("m", 100, (), defaults),
        folder / "tokenizer.json",
    )
    own = {"stop_token_ids": [9]}
    assert sampling_of(processor, TEXT | own).stop_token_ids == (9,)
    assert sampling_of(processor, TEXT | own | ANY_OBJECT).stop_token_ids == (*ENDS, 9)
    processor.close()


def test_whitespace_between_tokens_is_bounded(bound: PromptProcessor) -> None:
    """A small model would fill its answer with blanks."""
    grammar = sampling_of(bound, TEXT | ANY_OBJECT).grammar
    assert grammar is not None
    assert "[ ]|\\\\n[ \\\\t]{0,40}" in grammar.text


def test_a_schema_that_does_not_compile_is_the_lines_error(bound: PromptProcessor) -> None:
    with pytest.raises(RequestError, match="Invalid type: strin") as caught:
        sampling_of(bound, TEXT | with_schema({"type": "strin"}))
    assert caught.value.code == "invalid_response_format"


def test_without_a_tokenizer_file(processor: PromptProcessor) -> None:
    with pytest.raises(RequestError, match=r"needs the model's tokenizer.json") as caught:
        sampling_of(processor, TEXT | ANY_OBJECT)
    assert (caught.value.code, caught.value.param) == (
        "unsupported_parameter",
        "body.response_format",
    )


KEYWORDS = st.sampled_from(
    (
        *("type", "properties", "items", "required", "enum", "const", "anyOf", "allOf", "oneOf"),
        *("$ref", "$defs", "pattern", "format", "minLength", "maxLength", "minItems", "maxItems"),
        *("minimum", "multipleOf", "additionalProperties", "patternProperties", "$id", "a"),
    )
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYWORDS, inner, max_size=4),
    max_leaves=10,
)


@settings(deadline=None, max_examples=150)
@given(schema=st.dictionaries(KEYWORDS, VALUES, max_size=4))
def test_any_schema_compiles_or_is_refused(bound: PromptProcessor, schema: Any) -> None:
    codes = {"invalid_response_format", "invalid_json", "unsupported_parameter"}
    try:
        prepared = bound.prepare(line_of(TEXT | with_schema(schema)), KEY, None)
    except RequestError as error:
        refused = error.code
    else:
        msgspec.msgpack.encode(prepared.requests)
        return
    assert refused in codes
