"""The tiny model's tokenizer: standard files, one token a number, any text comes back."""

import json
from pathlib import Path

import pytest
import tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizer import FIRST_NUMBER_ID, SPACE, VOCABULARY, build_tokenizer, save_tokenizer
from transformers import PreTrainedTokenizerFast

TOKENIZER = build_tokenizer()


@pytest.fixture(scope="module")
def shipped(tiny_folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(tiny_folder)


def test_the_shipped_files_are_what_the_script_writes(tiny_folder: Path, tmp_path: Path) -> None:
    save_tokenizer(tmp_path, 1024)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        written = json.loads((tmp_path / name).read_text(encoding="utf-8"))
        assert json.loads((tiny_folder / name).read_text(encoding="utf-8")) == written


def test_special_ids_are_the_first_of_the_vocabulary() -> None:
    ids = [VOCABULARY[token] for token in tiny_tokenizer.SPECIAL_TOKENS]
    assert ids == [0, 1, 2, 3, 4]
    assert VOCABULARY["<|end|>"] == tiny_tokenizer.END_ID


@pytest.mark.parametrize("number", [0, 9, 10, 99, 100, 255])
def test_a_number_is_one_token(number: int) -> None:
    assert TOKENIZER.encode(f"{number} {number}").ids == [FIRST_NUMBER_ID + number] * 2


def test_words_are_one_token_each() -> None:
    tokens = TOKENIZER.encode("lookup: 5 217 ; sort: ->").tokens
    assert tokens == [SPACE + word for word in ("lookup:", "5", "217", ";", "sort:", "->")]


def test_what_is_not_ascii_is_spelled_in_bytes() -> None:
    assert TOKENIZER.encode("é").tokens == [SPACE, "<0xC3>", "<0xA9>"]


@pytest.mark.parametrize(
    "text", ["7 13 52", " lead", "end  ", "a\n\tb", "256", "naïve 日本 €!", ""]
)
def test_texts_come_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids) == text


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters=SPACE)))
def test_any_text_comes_back(text: str) -> None:
    if not any(token in text for token in tiny_tokenizer.SPECIAL_TOKENS):
        assert TOKENIZER.decode(TOKENIZER.encode(text).ids) == text


def test_transformers_decodes_without_cleaning_up(shipped: PreTrainedTokenizerFast) -> None:
    text = "9 130 ; 5 217 ."
    assert shipped.decode(shipped(text)["input_ids"]) == text
    assert shipped.eos_token_id == tiny_tokenizer.END_ID
    assert shipped.pad_token_id == tiny_tokenizer.PAD_ID


def test_the_chat_template(shipped: PreTrainedTokenizerFast) -> None:
    messages = [
        {"role": "system", "content": "table: 5 217"},
        {"role": "user", "content": "find: 5"},
    ]
    text = shipped.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|system|>table: 5 217<|end|><|user|>find: 5<|end|><|assistant|>"
    ids = shipped.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    expected = [
        *("<|system|>", "▁table:", "▁5", "▁217", "<|end|>"),
        *("<|user|>", "▁find:", "▁5", "<|end|>", "<|assistant|>"),
    ]
    assert shipped.convert_ids_to_tokens(ids) == expected


def test_the_chat_template_refuses_other_roles(shipped: PreTrainedTokenizerFast) -> None:
    with pytest.raises(Exception, match="roles are system, user and assistant"):
        shipped.apply_chat_template([{"role": "tool", "content": "1"}], tokenize=False)
