"""What the cost of a micro-batch depends on."""

from __future__ import annotations

from typing import Protocol

import msgspec


class BatchShape(msgspec.Struct, frozen=True, gc=False):
    """The size of a micro-batch.

    num_tokens         new tokens of all rows: rows of the GEMMs.
    num_kv_tokens      positions whose KV attention reads, summed over the rows.
    num_requests       rows; the LM head sees one token of each at most.
    num_prompt_pairs   (query, key) pairs of the rows with more than one new token: where attention
                       costs arithmetic beside the reading of KV.
    """

    num_tokens: int
    num_kv_tokens: int
    num_requests: int
    num_prompt_pairs: int = 0


def count_prompt_pairs(num_computed_tokens: int, num_new_tokens: int) -> int:
    """Pairs of one row that adds ``num_new_tokens`` after ``num_computed_tokens``; 0 if it
    decodes."""
    if num_new_tokens <= 1:
        return 0
    return num_new_tokens * num_computed_tokens + num_new_tokens * (num_new_tokens + 1) // 2


class Estimator(Protocol):
    """Predicts how long a stage computes, and learns from what was measured."""

    @property
    def error_ratio(self) -> float:
        """Moving average of ``|predicted - measured| / measured``."""
        ...

    def predict(self, shape: BatchShape) -> float:
        """Seconds that the slowest stage takes for ``shape``."""
        ...

    def observe(self, shape: BatchShape, stage: int, seconds: float) -> None:
        """Take what ``stage`` measured for ``shape``."""
        ...
