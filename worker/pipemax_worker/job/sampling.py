"""Defaults of how the next token is chosen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, StringConstraints

from pipemax_worker.job.section import BrokenRule, Section

StopString = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class SamplingSpec(Section):
    """Defaults for requests that say nothing themselves: a line's own body wins, field by field."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    """Randomness. 0: always the most likely token (greedy); the filters below do not apply then."""

    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Choose among the most likely tokens whose probabilities add up to this. 1: all."""

    top_k: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Choose among this many of the most likely tokens. 0: all."""

    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Leave out tokens less likely than this share of the most likely one. 0: none."""

    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    """Makes sampling repeatable; each request's own seed is derived from this and its place in
    the input."""

    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Above 1: tokens of the prompt and of the output so far become less likely. 1: off."""

    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    """Subtracted from the logit of every token that is in the output so far."""

    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    """Subtracted from a token's logit for each time it is in the output so far."""

    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Most tokens to generate. Absent: until the model stops or its context is full."""

    min_tokens: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    """Do not stop before this many tokens; at most `maxTokens`."""

    stop: Annotated[tuple[StopString, ...], Field(strict=False, max_length=16)] = ()
    """Texts that end the output; they are not part of it."""

    ignore_eos: bool = False
    """Go on after the model's end-of-sequence token; for measuring."""

    def broken_rules(self) -> Iterator[BrokenRule]:
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            yield BrokenRule(
                "minTokens",
                f"found {self.min_tokens}, expected at most maxTokens, which is {self.max_tokens}",
            )
