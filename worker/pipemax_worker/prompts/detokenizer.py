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
    Unicode recommends. (With byte fallback the ``tokenizers`` library gives one for each byte of
    such a run: the only difference.) The work for a token does not depend on what came before it.
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
        self._pieces: list[str] = []
        self._found = False

    @property
    def text(self) -> str:
        """The text so far, cut before the stop string once one is found."""
        return "".join(self._pieces)

    def append(self, token_id: int) -> bool:
        """Take the next output token; True if the text now contains a stop string."""
        self._num_tokens += 1
        return self._search(self._detokenizer.append(token_id))

    def _search(self, new_text: str) -> bool:
        if self._found or not new_text:
            return self._found
        window = self._tail + new_text
        self._pieces.append(new_text)
        self._tail = window[max(0, len(window) - self._tail_length) :]
        if self._num_tokens < self._min_tokens:
            return False
        old_length = len(window) - len(new_text)
        # a match ends in the new text: what ended before was judged before
        starts = [window.find(one, max(0, old_length - len(one) + 1)) for one in self._stop]
        first = min((start for start in starts if start >= 0), default=None)
        if first is not None:
            self._found = True
            num_left = len(self.text) - len(window) + first
            self._pieces = [self.text[:num_left]]
        return self._found


def decode_until_stop(
    tokenizer: Tokenizer, token_ids: Sequence[int], stop: Sequence[str], min_tokens: int = 0
) -> str:
    """The text of all tokens, cut before the first stop string."""
    if stop:
        checker = StopStringChecker(tokenizer, stop, min_tokens)
        if any(checker.append(token_id) for token_id in token_ids):
            return checker.text
    return tokenizer.decode(list(token_ids))
