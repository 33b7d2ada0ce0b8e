"""Text token by token equals the whole decoded at once; stop strings are found where they are."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pipemax_worker.prompts.detokenizer import Detokenizer, StopStringChecker, decode_until_stop
from pipemax_worker.prompts.tokenizer import Tokenizer

TEXTS = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from(" abct 😀👩🏽‍🚀é你\ufffd\n▁")),
    max_size=60,
)


def _detokenize(tokenizer: Tokenizer, token_ids: list[int]) -> str:
    detokenizer = Detokenizer(tokenizer)
    text = "".join([detokenizer.append(token_id) for token_id in token_ids])
    return text + detokenizer.finish()


@given(text=TEXTS)
@example(text="  leading, 😀😀 and  double spaces ")
@example(text="\ufffd" * 40 + "end")
def test_pieces_join_to_the_whole(byte_level: Tokenizer, metaspace: Tokenizer, text: str) -> None:
    for tokenizer in (byte_level, metaspace):
        token_ids = tokenizer.encode(text)
        assert _detokenize(tokenizer, token_ids) == tokenizer.decode(token_ids)


@given(token_ids=st.lists(st.integers(0, 450), max_size=80))
@settings(max_examples=300)
def test_any_tokens_of_a_byte_level_model_join_to_the_whole(
    byte_level: Tokenizer, token_ids: list[int]
) -> None:
    """Also bytes that are no UTF-8, special tokens and ids beyond the vocabulary."""
    assert _detokenize(byte_level, token_ids) == byte_level.decode(token_ids)


@given(token_ids=st.lists(st.integers(0, 600), max_size=80))
def test_any_tokens_with_byte_fallback_give_some_text(
    metaspace: Tokenizer, token_ids: list[int]
) -> None:
    text = _detokenize(metaspace, token_ids)
    if "\ufffd" not in metaspace.decode(token_ids):
        assert text == metaspace.decode(token_ids)


def test_a_split_character_is_held_back(byte_level: Tokenizer) -> None:
    detokenizer = Detokenizer(byte_level)
    token_ids = byte_level.encode("😀")
    assert len(token_ids) == 4
    assert [detokenizer.append(token_id) for token_id in token_ids] == ["", "", "", "😀"]


def test_what_is_no_character_comes_out_in_the_end(byte_level: Tokenizer) -> None:
    detokenizer = Detokenizer(byte_level)
    assert detokenizer.append(byte_level.encode("😀")[0]) == ""
    assert detokenizer.finish() == "\ufffd"
    assert detokenizer.finish() == ""


def test_a_token_is_decoded_once_however_often_it_comes(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text so far is never decoded again."""
    token_ids = tokenizer.encode("Hello world 😀 stop") * 50
    looked_at: list[int] = []
    find_token_bytes = tokenizer._find_token_bytes
    monkeypatch.setattr(tokenizer, "_token_bytes", {})
    monkeypatch.setattr(
        tokenizer,
        "_find_token_bytes",
        lambda token_id, is_first: (
            looked_at.append(token_id) or find_token_bytes(token_id, is_first)
        ),
    )
    monkeypatch.setattr(tokenizer, "decode", None)
    checker = StopStringChecker(tokenizer, ["never found"])
    assert not any(checker.append(token_id) for token_id in token_ids)
    assert len(looked_at) <= len(set(token_ids)) + 1


def _stopped_text(tokenizer: Tokenizer, text: str, stop: list[str]) -> tuple[int | None, str]:
    """``(tokens taken before the checker spoke, the text that is left)``"""
    token_ids = tokenizer.encode(text)
    checker = StopStringChecker(tokenizer, stop)
    for count, token_id in enumerate(token_ids, start=1):
        if checker.append(token_id):
            return count, decode_until_stop(tokenizer, token_ids[:count], stop)
    return None, decode_until_stop(tokenizer, token_ids, stop)


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("Hello world", ["wor"], "Hello "),
        ("Hello world", ["o w"], "Hell"),  # across tokens
        ("Hello world", ["never"], "Hello world"),
        ("Hello world", ["world", "lo"], "Hel"),  # the first in the text, not in the list
        ("ab ab abc", ["abc"], "ab ab "),
        ("aaaab", ["aab"], "aa"),  # overlaps itself
        ("so 😀 it is", ["😀"], "so "),  # inside a character's tokens
        ("one\n\ntwo", ["\n\n"], "one"),
        ("Hello", ["Hello"], ""),
    ],
)
def test_stop_strings(tokenizer: Tokenizer, text: str, stop: list[str], expected: str) -> None:
    count, left = _stopped_text(tokenizer, text, stop)
    assert left == expected
    assert (count is None) == (left == text)


@given(text=st.text("ab 😀", max_size=30), stop=st.lists(st.text("ab 😀", min_size=1), min_size=1))
def test_the_cut_is_before_the_first_stop_string(
    byte_level: Tokenizer, text: str, stop: list[str]
) -> None:
    positions = [text.find(one) for one in stop if one in text]
    token_ids = byte_level.encode(text)
    checker = StopStringChecker(byte_level, stop)
    ends = [count for count, token_id in enumerate(token_ids, 1) if checker.append(token_id)]
    assert bool(ends) == bool(positions)
    if ends:
        until = byte_level.decode(token_ids[: ends[0]])
        assert any(one in until for one in stop)
        before = byte_level.decode(token_ids[: ends[0] - 1])
        assert not any(one in before for one in stop)
        cut = min(until.find(one) for one in stop if one in until)
        assert checker.text == until[:cut]


def test_a_stop_string_counts_only_from_min_tokens_on(byte_level: Tokenizer) -> None:
    token_ids = byte_level.encode("a b a b a b", add_special_tokens=False)
    num_tokens = len(token_ids)
    stops = []
    for min_tokens in range(num_tokens + 1):
        checker = StopStringChecker(byte_level, ["b"], min_tokens)
        stops.append(next(n for n, one in enumerate(token_ids, 1) if checker.append(one)))
        text = decode_until_stop(byte_level, token_ids[: stops[-1]], ["b"], min_tokens)
        assert text + "b" == byte_level.decode(token_ids[: stops[-1]])
    assert all(stop >= min_tokens for min_tokens, stop in enumerate(stops))
    assert len(set(stops)) == 3


def test_what_ended_before_min_tokens_is_not_found_later(byte_level: Tokenizer) -> None:
    """A longer stop string keeps more text in view, which must not revive a shorter one."""
    token_ids = byte_level.encode("abz", add_special_tokens=False)
    checker = StopStringChecker(byte_level, ["ab", "a long stop string"], min_tokens=3)
    assert [checker.append(token_id) for token_id in token_ids] == [False] * len(token_ids)
