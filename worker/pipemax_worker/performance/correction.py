"""Corrects a prior by what the stages report, and keeps account of how far off it was.

What a prior does not know (a slower card, launch costs, tile steps) is learned as a factor for each
stage and bucket of tokens: measured over predicted, averaged in logarithms so that one step that
hung does not outweigh a hundred that did not.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import repeat

import msgspec

from pipemax_worker.performance.batch_shape import BatchShape
from pipemax_worker.performance.step_cost import StepCost, all_stage_seconds

_MIN_AVERAGE_WEIGHT = 0.05
_MAX_LOG_STEP = math.log(4.0)
_BUCKETS_PER_OCTAVE = 2
_NUM_REMEMBERED_ERRORS = 100
_CLOSE_RATIO = 0.05
_MAX_KNOWN_LOOKS = 512


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
        self._shape: BatchShape | None = None
        self._look = _Look([], 0, 0.0, 0)
        self._looks: dict[BatchShape, _Look] = {}
        self._is_prior_exact = True
        self._factors_by_bucket: dict[int, list[float]] = {}

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
        look = self._look_at(shape)
        if self._is_prior_exact:
            return max(look.priors)
        share, low, high = look.share, self._factors(look.low), self._factors(look.low + 1)
        seconds = map(_corrected, look.priors, low, high, repeat(share))
        return max(seconds)

    def predict_stage(self, shape: BatchShape, stage: int) -> float:
        """Seconds that ``stage`` takes for ``shape``."""
        look = self._look_at(shape)
        low, high = self._bucket_log(stage, look.low), self._bucket_log(stage, look.low + 1)
        return _corrected(look.priors[stage], low, high, look.share)

    def observe(self, shape: BatchShape, stage: int, seconds: float) -> None:
        """Take a measured step. Steps without tokens or without a duration teach nothing."""
        if shape.num_tokens <= 0 or seconds <= 0.0:
            return
        look = self._look_at(shape)
        if self._is_prior_exact and seconds == look.priors[stage]:
            self._confirm(look, stage)
            return
        self._is_prior_exact = False
        error = abs(self.predict_stage(shape, stage) - seconds) / seconds
        self._error.observe(error)
        self._last_errors.append(error)
        log_ratio = math.log(seconds / look.priors[stage])
        self._stage_factors[stage].observe(log_ratio)
        self._factors_by_bucket.clear()
        self._bucket_factor(stage, look.nearest).observe(log_ratio)

    @property
    def is_prior_exact(self) -> bool:
        """Whether all that was ever measured is what the prior says."""
        return self._is_prior_exact

    def confirm_all(self, num_tokens: int, num_steps: int) -> None:
        """``observe`` for every stage and as many steps of ``num_tokens``, where each took what an
        exact prior says."""
        nearest = round(_position(num_tokens))
        num_observed = num_steps * len(self._stage_factors)
        self._error.num_observed += num_observed
        self._last_errors.extend(repeat(0.0, min(num_observed, _NUM_REMEMBERED_ERRORS)))
        for stage, factor in enumerate(self._stage_factors):
            factor.num_observed += num_steps
            self._bucket_factor(stage, nearest).num_observed += num_steps

    def _confirm(self, look: _Look, stage: int) -> None:
        """As any observation, where all that was ever seen is the prior: every factor stays 1 and
        every error 0. So it is in simulations, eight times a message."""
        self._error.num_observed += 1
        self._last_errors.append(0.0)
        self._stage_factors[stage].num_observed += 1
        self._bucket_factor(stage, look.nearest).num_observed += 1

    def _bucket_factor(self, stage: int, bucket: int) -> RunningFactor:
        buckets = self._bucket_factors[stage]
        factor = buckets.get(bucket)
        if factor is None:
            factor = buckets[bucket] = RunningFactor()
        return factor

    def _factors(self, bucket: int) -> list[float]:
        """Of all stages; kept until something new is learned."""
        factors = self._factors_by_bucket.get(bucket)
        if factors is None:
            stages = range(len(self._stage_factors))
            factors = [self._bucket_log(stage, bucket) for stage in stages]
            self._factors_by_bucket[bucket] = factors
        return factors

    def _bucket_log(self, stage: int, bucket: int) -> float:
        """An unseen bucket has the stage's factor."""
        factor = self._bucket_factors[stage].get(bucket)
        return (factor or self._stage_factors[stage]).log_factor

    def _look_at(self, shape: BatchShape) -> _Look:
        """All stages report the same shape one after the other, and micro-batches that have not had
        their turn are asked for again and again: each is worked out once."""
        if shape is self._shape:
            return self._look
        look = self._looks.get(shape)
        if look is None:
            position = _position(shape.num_tokens)
            low = math.floor(position)
            priors = all_stage_seconds(self._prior, shape)
            look = _Look(priors, low, position - low, round(position))
            if len(self._looks) >= _MAX_KNOWN_LOOKS:
                self._looks.clear()
            self._looks[shape] = look
        self._shape, self._look = shape, look
        return look


def _position(num_tokens: int) -> float:
    """Between the buckets, which are numbered."""
    return _BUCKETS_PER_OCTAVE * math.log2(max(1, num_tokens))


def _corrected(prior: float, low: float, high: float, share: float) -> float:
    """``prior`` by the factors, in logarithms, of the buckets around it."""
    return prior * math.exp((1 - share) * low + share * high)


class _Look(msgspec.Struct):
    """A shape between two buckets of tokens: ``low`` and the next one, ``share`` of the way."""

    priors: list[float]
    low: int
    share: float
    nearest: int
