"""Token ids to text, one token at a time, and stop strings found on the way."""

from __future__ import annotations

from collections.abc import Sequence

from pipemax_worker.prompts.tokenizer import Tokenizer

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# A character takes at most four tokens; a longer wait means bytes that are no UTF-8.
_MAX_PENDING_TOKENS = 16


class Detokenizer:
    """Text as tokens arrive; the pieces joined equal the whole decoded at once.

    A decoder's output depends on what came before (a leading space) and on what follows (a
    character split over tokens). So each token is decoded behind the last ones whose text was
    given out (the context), and text that ends inside a character is held back. The work for a
    token is bounded by the context, whatever the length of the text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._context_text = ""
        self._pending: list[int] = []

    def append(self, token_id: int) -> str:
        """Take the next token; returns the text that is certain now, often empty."""
        if not self._tokenizer.is_visible(token_id):
            return ""
        self._pending.append(token_id)
        text = self._tokenizer.decode(self._context + self._pending)
        if not text.endswith(_REPLACEMENT):
            return self._give_out(len(self._pending), text)
        if len(self._pending) < _MAX_PENDING_TOKENS:
            return ""
        return self._give_out(*self._certain_part(text))

    def finish(self) -> str:
        """The text that was held back, with U+FFFD for the bytes that are no character."""
        if not self._pending:
            return ""
        text = self._tokenizer.decode(self._context + self._pending)
        return self._give_out(len(self._pending), text)

    def _give_out(self, num_tokens: int, text: str) -> str:
        """``text`` is that of the context and ``num_tokens`` pending tokens."""
        new_text = text[len(self._context_text) :]
        given, self._pending = self._pending[:num_tokens], self._pending[num_tokens:]
        # a token without text is no context: the next one's leading space would be stripped
        keep = self._context if not new_text and len(self._context) < _MAX_PENDING_TOKENS else []
        self._context = keep + given
        self._context_text = self._tokenizer.decode(self._context)
        return new_text

    def _certain_part(self, text: str) -> tuple[int, str]:
        """The longest part of the pending tokens that ends where a character ends."""
        for num_tokens in range(len(self._pending) - 1, 0, -1):
            head = self._tokenizer.decode(self._context + self._pending[:num_tokens])
            if head + self._tokenizer.decode(self._pending[num_tokens:]) == text:
                return num_tokens, head
        return len(self._pending), text


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
        self._tail = window[len(window) - self._tail_length :] if self._tail_length else ""
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
