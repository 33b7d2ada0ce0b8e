"""Token ids to text, one token at a time, and stop strings found on the way."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from pipemax_worker.prompts.tokenizer import Tokenizer


class Detokenizer:
    """Text as tokens arrive; the pieces joined equal the whole decoded at once.

    Holds for decoders that treat tokens one by one, but for the text's first (byte-level BPE,
    SentencePiece with or without byte fallback). A character split over tokens is held back until
    it is whole; bytes that are no UTF-8 become U+FFFD, one for each sequence that breaks off, as
    Unicode recommends. The work for a token does not depend on what came before it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_first = True

    def append(self, token_id: int) -> str:
        """Take the next token; returns the text that is certain now, often empty."""
        if not self._tokenizer.is_visible(token_id):
            return ""
        data = self._tokenizer.token_bytes(token_id, is_first=self._is_first)
        self._is_first = False
        return self._decoder.decode(data)

    def finish(self) -> str:
        """The text that was held back: U+FFFD where the last character is not whole."""
        return self._decoder.decode(b"", final=True)


class StopStringChecker:
    """Implements ``contract.request.StopChecker``: finds the first stop string of a text.

    A stop string counts once it is complete and at least ``min_tokens`` tokens are there. Only the
    text that could still begin a stop string is looked at, so a token costs the same at any length.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], min_tokens: int = 0) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._stop = tuple(stop)
        self._min_tokens = min_tokens
        self._tail_length = max((len(one) for one in self._stop), default=1) - 1
        self._tail = ""
        self._num_tokens = 0
        self._num_characters = 0
        self._cut: int | None = None

    @property
    def cut(self) -> int | None:
        """Characters before the stop string that was found, or None."""
        return self._cut

    def append(self, token_id: int) -> bool:
        """Take the next output token; True if the text now contains a stop string."""
        self._num_tokens += 1
        return self._search(self._detokenizer.append(token_id))

    def _search(self, new_text: str) -> bool:
        if self._cut is not None or not new_text:
            return self._cut is not None
        window = self._tail + new_text
        if self._num_tokens >= self._min_tokens:
            found = [self._find(window, one) for one in self._stop]
            first = min((position for position in found if position >= 0), default=-1)
            if first >= 0:
                self._cut = self._num_characters - len(self._tail) + first
        self._num_characters += len(new_text)
        self._tail = window[max(0, len(window) - self._tail_length) :]
        return self._cut is not None

    def _find(self, window: str, stop: str) -> int:
        """Where ``stop`` begins, ending in the new text: what ended before was judged before."""
        return window.find(stop, max(0, len(self._tail) - len(stop) + 1))


def decode_until_stop(
    tokenizer: Tokenizer, token_ids: Sequence[int], stop: Sequence[str], min_tokens: int = 0
) -> str:
    """The text of all tokens, cut before the first stop string."""
    text = tokenizer.decode(list(token_ids))
    if not stop:
        return text
    checker = StopStringChecker(tokenizer, stop, min_tokens)
    if any(checker.append(token_id) for token_id in token_ids):
        return text[: checker.cut]
    return text
