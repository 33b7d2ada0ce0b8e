"""What may follow in one request's text: the llguidance library, seen from the sampler.

Everything here runs in one of the background threads of ``stage.sampling.grammar``; a compiled
grammar and the matchers that are copies of it belong to one thread, so nothing is locked but the
tokenizer, which all threads share. The library is loaded with the first grammar: a stage without
one does not need it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from pipemax_worker.contract.grammar import PARSER_LIMITS, Grammar

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_COMPILED_GRAMMARS = 64
"""A thread keeps the compiled form of the grammars that it used last."""

WORD_BITS = 32

Words = npt.NDArray[np.uint32]


class TokenMask(NamedTuple):
    """Which tokens may come next: bit ``i % 32`` of word ``i // 32`` for token ``i``.

    num_allowed  how many bits are set.
    must_end     nothing but tokens that end the text is left.
    error        the grammar has failed, and why; all tokens are allowed then.
    """

    words: Words  # [ceil(vocab_size / 32)]
    num_allowed: int
    must_end: bool = False
    error: str | None = None


def pack_bits(token_ids: Sequence[int], vocab_size: int) -> Words:
    """A mask's words in which exactly these tokens are set."""
    num_words = -(-vocab_size // WORD_BITS)
    bits = np.zeros(num_words * WORD_BITS, np.uint8)
    bits[list(token_ids)] = 1
    return np.packbits(bits, bitorder="little").view(np.uint32)


class SharedTokenizer:
    """The model's tokenizer in the library's form, made when it is first needed (0.2 s for a
    vocabulary of 49,152)."""

    def __init__(self, tokenizer_file: Path | None, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._tokenizer_file = tokenizer_file
        self._lock = threading.Lock()
        self._loaded: dict[tuple[int, ...], LLTokenizer] = {}

    def load(self, end_token_ids: tuple[int, ...]) -> LLTokenizer:
        """Raises ValueError, OSError where the file is missing or not understood, ImportError."""
        from llguidance import LLTokenizer

        with self._lock:
            if end_token_ids not in self._loaded:
                if self._tokenizer_file is None:
                    raise ValueError("this stage has no tokenizer.json")
                text = self._tokenizer_file.read_text(encoding="utf-8")
                self._loaded[end_token_ids] = LLTokenizer(text, eos_token=list(end_token_ids))
            return self._loaded[end_token_ids]


class CompiledGrammars:
    """The grammars that one thread has compiled. Copies of one share what its lexer has learnt."""

    def __init__(self, tokenizer: SharedTokenizer) -> None:
        self.vocab_size = tokenizer.vocab_size
        self._tokenizer = tokenizer
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()

    def new_matcher(self, grammar: Grammar) -> LLMatcher:
        """A matcher at the start of the text; in its error state if the grammar does not compile.
        Raises what :meth:`SharedTokenizer.load` raises."""
        compiled = self._compiled.pop(grammar, None) or self._compile(grammar)
        self._compiled[grammar] = compiled
        if len(self._compiled) > MAX_COMPILED_GRAMMARS:
            self._compiled.popitem(last=False)
        return compiled.deep_copy()

    def forget(self, grammar: Grammar) -> None:
        """Compile it anew the next time."""
        self._compiled.pop(grammar, None)

    def _compile(self, grammar: Grammar) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        tokenizer = self._tokenizer.load(grammar.end_token_ids)
        limits = LLParserLimits(**PARSER_LIMITS)
        return LLMatcher(tokenizer, grammar.text, log_level=0, limits=limits)


class GrammarMatcher:
    """One request's place in its grammar."""

    def __init__(
        self, grammar: Grammar, stop_token_ids: Sequence[int], compiled: CompiledGrammars
    ) -> None:
        self._grammar = grammar
        self._compiled = compiled
        self._matcher: LLMatcher | None = None
        self._token_ids: list[int] = []
        self._has_ended = False
        self._error: str | None = None
        stops = [token for token in stop_token_ids if 0 <= token < compiled.vocab_size]
        self._stop_words = pack_bits(stops, compiled.vocab_size)
        everything = np.full_like(self._stop_words, 0xFFFFFFFF)
        self._everything = TokenMask(everything, compiled.vocab_size)

    def advance(self, token_ids: Sequence[int]) -> TokenMask:
        """Take the next output tokens and say what may follow them. After an end token anything
        may: the driver drops what was sampled beyond it."""
        ends = self._grammar.end_token_ids
        self._has_ended = self._has_ended or any(token in ends for token in token_ids)
        if self._has_ended or self._error is not None:
            return self._everything._replace(error=self._error)
        self._token_ids += token_ids
        try:
            words = self._next_words(token_ids)
        except BaseException as error:  # a panic of the library is not an Exception
            self._error = f"{type(error).__name__}: {error}"
            return self._everything._replace(error=self._error)
        num_allowed = int(np.bitwise_count(words).sum())
        return TokenMask(words, num_allowed, must_end=not np.any(words & ~self._stop_words))

    def _next_words(self, token_ids: Sequence[int]) -> Words:
        if self._matcher is None:
            self._matcher = self._compiled.new_matcher(self._grammar)
        words = self._try(self._matcher, token_ids)
        if words is None:
            # The lexer's states, which all copies share, are limited: once more with a fresh one.
            self._compiled.forget(self._grammar)
            self._matcher = self._compiled.new_matcher(self._grammar)
            words = self._try(self._matcher, self._token_ids)
        if words is None:
            raise ValueError(self._matcher.get_error())
        return words

    def _try(self, matcher: LLMatcher, token_ids: Sequence[int]) -> Words | None:
        """None: the matcher is in its error state."""
        if token_ids and not matcher.consume_tokens(list(token_ids)):
            return None
        found = np.frombuffer(matcher.compute_bitmask(), np.uint32)
        if matcher.is_error():
            return None
        # The model may have fewer rows than the tokenizer has tokens, or more (padding).
        words = np.zeros_like(self._stop_words)
        shared = min(len(words), len(found))
        words[:shared] = found[:shared]
        return words
