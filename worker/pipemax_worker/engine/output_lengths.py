"""How long outputs will be, learned from those that are finished."""

from __future__ import annotations

_WEIGHT = 0.05
_EXCESS_RATIO = 0.5


class OutputLengths:
    """Two predictors, of which the one that was less wrong lately speaks.

    *By the mean* of finished outputs, whatever their limits; *by the limit*, ``max_tokens`` times
    the mean share of it that was used. The second is exact where texts run to their limits, and
    where limits are all alike the two say the same.
    """

    def __init__(self, expected_output_tokens: int) -> None:
        self._mean_tokens = float(expected_output_tokens)
        self._mean_share = 1.0
        self._mean_error = 0.0
        self._share_error = 0.0
        self._num_finished = 0

    @property
    def mean_tokens(self) -> float:
        return self._mean_tokens

    @property
    def excess_tokens(self) -> float:
        """What a text that has outlived its prediction is expected to go on for."""
        return _EXCESS_RATIO * self._mean_tokens

    def note_finished(self, num_output_tokens: int, max_tokens: int) -> None:
        share_error = abs(self._mean_share * max_tokens - num_output_tokens)
        mean_error = abs(self._mean_tokens - num_output_tokens)
        self._share_error += _WEIGHT * (share_error - self._share_error)
        self._mean_error += _WEIGHT * (mean_error - self._mean_error)
        self._mean_tokens += _WEIGHT * (num_output_tokens - self._mean_tokens)
        self._mean_share += _WEIGHT * (num_output_tokens / max_tokens - self._mean_share)
        self._num_finished += 1

    def expected_tokens(self, max_tokens: int) -> float:
        """Of a whole output. Until something is finished: the configured mean."""
        expected = self._mean_tokens
        if self._num_finished and self._share_error <= self._mean_error:
            expected = self._mean_share * max_tokens
        return min(expected, max_tokens)
