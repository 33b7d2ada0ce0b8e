"""What all parts of an InferenceJob share: camelCase in YAML, no unknown fields, no guessing.

Strict, because the API server is: ``nodes: "4"`` is refused there too. A field's docstring is its
description in the reference and in the CRD.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError


class BrokenRule(NamedTuple):
    """A rule over several fields that does not hold.

    ``field``: the field to change, as written in YAML, dotted and relative to the section.
    ``message``: what was found there and what is allowed.
    """

    field: str
    message: str


class Section(BaseModel):
    """A mapping of the job file. Built by :func:`pipemax_worker.job.parse_job`, never changed."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    def broken_rules(self) -> Iterator[BrokenRule]:
        """The rules over several fields that do not hold; asked once each field is right alone."""
        yield from ()

    @model_validator(mode="after")
    def _refuse_broken_rules(self) -> Self:
        broken = tuple(self.broken_rules())
        if broken:
            text = "; ".join(f"{rule.field}: {rule.message}" for rule in broken)
            raise PydanticCustomError("broken_rules", "{text}", {"text": text, "broken": broken})
        return self


def unexpected(expected: str) -> PydanticCustomError:
    """The error of a single value; ``expected`` completes "found X, expected ..."."""
    return PydanticCustomError("unexpected", "expected {expected}", {"expected": expected})
