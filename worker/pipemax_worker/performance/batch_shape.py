"""What the cost of a micro-batch depends on."""

from __future__ import annotations

from typing import Protocol

import msgspec


class BatchShape(msgspec.Struct, frozen=True):
    """The size of a micro-batch.

    num_tokens      new tokens of all rows: rows of the GEMMs.
    num_kv_tokens   positions whose KV attention reads, summed over the rows.
    num_requests    rows.
    """

    num_tokens: int
    num_kv_tokens: int
    num_requests: int


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
