"""Texts of a length that the scheduler is not told: for benchmarks and simulations."""

from __future__ import annotations


class LengthReached:
    """A :class:`~pipemax_worker.contract.request.StopChecker` that ends after ``num_tokens``."""

    def __init__(self, num_tokens: int) -> None:
        self._num_left = num_tokens

    def append(self, token_id: int) -> bool:
        self._num_left -= 1
        return self._num_left == 0
