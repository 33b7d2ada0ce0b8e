"""What may follow: masks of one request, the vocabulary's edges, and the second try."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit.grammar import backend, eos_token_id, grammar_for
from kit.tokenizer import build_tokenizer_folder
from pipemax_worker.stage.sampling import matcher as matcher_module
from pipemax_worker.stage.sampling.matcher import (
    CompiledGrammars,
    GrammarMatcher,
    SharedTokenizer,
    TokenMask,
    pack_bits,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tokenizer_folder(tmp_path_factory.mktemp("tokenizer"))


def compiled_for(folder: Path, vocab_size: int = 512) -> CompiledGrammars:
    return CompiledGrammars(SharedTokenizer(folder / "tokenizer.json", vocab_size))


def matcher_for(
    folder: Path, schema: dict[str, Any], compiled: CompiledGrammars | None = None
) -> GrammarMatcher:
    end = eos_token_id(folder)
    return GrammarMatcher(grammar_for(schema, (end,)), (end,), compiled or compiled_for(folder))


def allowed(mask: TokenMask) -> list[int]:
    bits = np.unpackbits(mask.words.view(np.uint8), bitorder="little")
    found: list[int] = np.flatnonzero(bits).tolist()
    assert mask.num_allowed == len(found)
    return found


def ids(folder: Path, text: str) -> list[int]:
    found: list[int] = backend(folder).encode(text).ids
    return found


def test_pack_bits() -> None:
    words = pack_bits([0, 33, 69], 70)
    assert words.tolist() == [1, 2, 1 << 5]


def test_only_what_continues_the_text_is_allowed(folder: Path) -> None:
    matcher = matcher_for(folder, {"enum": [12, 13]})
    assert allowed(matcher.advance(())) == ids(folder, "1")
    mask = matcher.advance(ids(folder, "1"))
    assert allowed(mask) == sorted([*ids(folder, "2"), *ids(folder, "3")])
    assert not mask.must_end
    mask = matcher.advance(ids(folder, "3"))
    assert allowed(mask) == [eos_token_id(folder)]
    assert mask.must_end


@pytest.mark.parametrize("vocab_size", [200, 356, 384, 400, 512, 10_000])
def test_models_with_fewer_or_more_rows_than_the_tokenizer(folder: Path, vocab_size: int) -> None:
    """Padding rows stand for no text, and are never allowed."""
    matcher = matcher_for(folder, {"type": "string"}, compiled_for(folder, vocab_size))
    quote = ids(folder, '"')
    mask = matcher.advance(quote)
    assert mask.words.shape == (-(-vocab_size // 32),)
    assert max(allowed(mask)) < min(backend(folder).get_vocab_size(), 32 * len(mask.words))


def test_special_tokens_are_no_text(folder: Path) -> None:
    matcher = matcher_for(folder, {"type": "string"})
    mask = matcher.advance(ids(folder, '"'))
    special = {backend(folder).token_to_id(one) for one in ("<|endoftext|>", "<|im_start|>")}
    assert not special & set(allowed(mask))


def test_after_the_end_anything_goes(folder: Path) -> None:
    matcher = matcher_for(folder, {"const": 1})
    mask = matcher.advance([*ids(folder, "1"), eos_token_id(folder)])
    assert mask.num_allowed == 512
    assert (mask.must_end, mask.error) == (False, None)


def test_a_lexer_that_is_full_is_replaced_by_a_fresh_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of one grammar share a lexer whose states are limited; here the shared one fails."""
    compiled = compiled_for(folder)
    matcher = matcher_for(folder, {"enum": [12, 13]}, compiled)
    matcher.advance(())
    broken, tried = matcher._matcher, list[object]()
    try_one = GrammarMatcher._try

    def fail_once(self: GrammarMatcher, one: Any, token_ids: Any) -> Any:
        tried.append(one)
        return None if one is broken else try_one(self, one, token_ids)

    monkeypatch.setattr(GrammarMatcher, "_try", fail_once)
    mask = matcher.advance(ids(folder, "1"))
    assert mask.error is None
    assert allowed(mask) == sorted([*ids(folder, "2"), *ids(folder, "3")])
    assert len(tried) == 2


def test_compiled_grammars_are_kept_while_they_are_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matcher_module, "MAX_COMPILED_GRAMMARS", 2)
    compiled, end = compiled_for(folder), (eos_token_id(folder),)
    grammars = [grammar_for({"const": number}, end) for number in range(3)]
    for number in (0, 1, 0, 2):
        compiled.new_matcher(grammars[number])
    assert list(compiled._compiled) == [grammars[0], grammars[2]]


def test_a_stage_without_grammars_does_not_load_the_library() -> None:
    check = "import sys, pipemax_worker.stage.sampler; assert 'llguidance' not in sys.modules"
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", check], check=True, env=environment)


def test_the_tokenizer_is_read_once(folder: Path) -> None:
    tokenizer = SharedTokenizer(folder / "tokenizer.json", 512)
    assert tokenizer.load((2,)) is tokenizer.load((2,))
