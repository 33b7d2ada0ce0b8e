"""What a request's text must match, as it travels from ``prompts`` to the last stage."""

from __future__ import annotations

from typing import Any

import msgspec

PARSER_LIMITS: dict[str, Any] = {
    "max_items_in_row": 20_000,
    "step_max_items": 200_000,
    "verbose_errors": False,
}
"""Of the library's ``LLParserLimits``, the same wherever a grammar is compiled. The first two admit
objects of some thousand optional properties; a step that reaches them takes about 10 ms."""


class Grammar(msgspec.Struct, frozen=True):
    """A language that the output text is held to.

    text           a grammar of the llguidance library that has compiled with the model's tokenizer.
    end_token_ids  the model's end-of-sequence ids: allowed only where the text is complete, and
                   alone where nothing may follow. Never empty; all are among ``stop_token_ids``.
    """

    text: str
    end_token_ids: tuple[int, ...]
