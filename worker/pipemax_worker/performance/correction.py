"""Corrects a prior by what the stages report, and keeps account of how far off it was.

What a prior does not know (a slower card, launch costs, tile steps) is learned as a factor for each
stage and bucket of tokens: measured over predicted, averaged in logarithms so that one step that
hung does not outweigh a hundred that did not.
"""

from __future__ import annotations

import math
from collections import deque

import msgspec

from pipemax_worker.performance.batch_shape import BatchShape
from pipemax_worker.performance.step_cost import StepCost

_MIN_AVERAGE_WEIGHT = 0.05
_MAX_LOG_STEP = math.log(4.0)
_BUCKETS_PER_OCTAVE = 2
_NUM_REMEMBERED_ERRORS = 100
_CLOSE_RATIO = 0.05


class EstimatorAccuracy(msgspec.Struct, frozen=True):
    """Of the last 100 predictions: the share within 5 % of what was measured, and the worst error
    (the paper has 0.9 and 0.08 over 100 decode steps)."""

    share_within_5_percent: float
    worst_error_ratio: float


class RunningFactor:
    """A factor learned from ratios: the mean of the first few, then a moving average of them."""

    def __init__(self) -> None:
        self.log_factor = 0.0
        self.num_observed = 0

    def observe(self, log_ratio: float) -> None:
        step = log_ratio - self.log_factor
        if self.num_observed:
            step = max(-_MAX_LOG_STEP, min(_MAX_LOG_STEP, step))
        self.num_observed += 1
        self.log_factor += step * max(_MIN_AVERAGE_WEIGHT, 1.0 / self.num_observed)


class CorrectedEstimator:
    """An ``Estimator`` that starts from ``prior``."""

    def __init__(self, prior: StepCost) -> None:
        self._prior = prior
        self._stage_factors = [RunningFactor() for _ in range(prior.num_stages)]
        self._bucket_factors: list[dict[int, RunningFactor]] = [{} for _ in self._stage_factors]
        self._error = RunningFactor()
        self._last_errors: deque[float] = deque(maxlen=_NUM_REMEMBERED_ERRORS)

    @property
    def error_ratio(self) -> float:
        return self._error.log_factor

    @property
    def accuracy(self) -> EstimatorAccuracy:
        """Perfect before the first observation."""
        errors = self._last_errors
        num_close = sum(error <= _CLOSE_RATIO for error in errors)
        return EstimatorAccuracy(num_close / len(errors) if errors else 1.0, max(errors, default=0))

    def predict(self, shape: BatchShape) -> float:
        return max(self.predict_stage(shape, stage) for stage in range(len(self._stage_factors)))

    def predict_stage(self, shape: BatchShape, stage: int) -> float:
        """Seconds that ``stage`` takes for ``shape``."""
        prior = self._prior.stage_seconds(shape, stage)
        return prior * math.exp(self._log_factor(shape, stage))

    def observe(self, shape: BatchShape, stage: int, seconds: float) -> None:
        """Take a measured step. Steps without tokens or without a duration teach nothing."""
        if shape.num_tokens <= 0 or seconds <= 0.0:
            return
        prior = self._prior.stage_seconds(shape, stage)
        predicted = prior * math.exp(self._log_factor(shape, stage))
        error = abs(predicted - seconds) / seconds
        self._error.observe(error)
        self._last_errors.append(error)
        log_ratio = math.log(seconds / prior)
        self._stage_factors[stage].observe(log_ratio)
        buckets = self._bucket_factors[stage]
        buckets.setdefault(round(_bucket(shape)), RunningFactor()).observe(log_ratio)

    def _log_factor(self, shape: BatchShape, stage: int) -> float:
        """Interpolated between the two nearest buckets; an unseen bucket has the stage's factor."""
        position = _bucket(shape)
        low = math.floor(position)
        share = position - low
        return (1 - share) * self._bucket_log(stage, low) + share * self._bucket_log(stage, low + 1)

    def _bucket_log(self, stage: int, bucket: int) -> float:
        factor = self._bucket_factors[stage].get(bucket)
        return (factor or self._stage_factors[stage]).log_factor


def _bucket(shape: BatchShape) -> float:
    return _BUCKETS_PER_OCTAVE * math.log2(max(1, shape.num_tokens))
