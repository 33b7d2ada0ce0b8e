"""Texts of a length that the scheduler is not told: for benchmarks and simulations."""

from __future__ import annotations


class LengthReached:
    """A :class:`~pipemax_worker.contract.request.StopChecker` that ends after ``num_tokens``."""

    def __init__(self, num_tokens: int) -> None:
        self.num_left = num_tokens

    def append(self, token_id: int) -> bool:
        self.num_left -= 1
        return self.num_left == 0

    def skip(self, num_tokens: int) -> None:
        """As many tokens that do not end the text."""
        self.num_left -= num_tokens
