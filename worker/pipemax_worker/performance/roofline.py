"""Step time by roofline, corrected online.

The prior is the formula of the design, for one stage:

    T = max(weight_bytes / BW, 2 * parameters * tokens / FLOPS) + kv_bytes / BW + overhead

It knows the plateau: up to the knee, where the FLOPS of a step take as long as reading the weights,
a further token is free. What it does not know (tile steps, launch costs, a slower card) is learned
as a factor for each stage and bucket of tokens: measured over predicted, averaged in logarithms so
that one step that hung does not outweigh a hundred that did not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from pipemax_worker.performance.batch_shape import BatchShape
from pipemax_worker.performance.hardware import HardwareProfile

_MIN_AVERAGE_WEIGHT = 0.05
_MAX_LOG_STEP = math.log(4.0)
_BUCKETS_PER_OCTAVE = 2


class StageCost(msgspec.Struct, frozen=True):
    """What one stage holds.

    weight_bytes         read from memory once a step.
    num_parameters       multiplied with every token.
    kv_bytes_per_token   of this stage's layers.
    """

    weight_bytes: int
    num_parameters: int
    kv_bytes_per_token: int


class _RunningFactor:
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


class RooflineEstimator:
    """The roofline of ``stages`` on ``profile``, corrected by what the stages report."""

    def __init__(self, profile: HardwareProfile, stages: Sequence[StageCost]) -> None:
        self._profile = profile
        self._stages = tuple(stages)
        self._stage_factors = [_RunningFactor() for _ in self._stages]
        self._bucket_factors: list[dict[int, _RunningFactor]] = [{} for _ in self._stages]
        self._error = _RunningFactor()

    @property
    def error_ratio(self) -> float:
        return self._error.log_factor

    @property
    def knee_tokens(self) -> int:
        """Tokens up to which a step of the slowest stage costs no more than its weights' reading.

        By nominal speeds; a further prefill token is nearly free below it.
        """
        knees = [self._knee(stage) for stage in self._stages]
        return max(1, int(min(knees)))

    def predict(self, shape: BatchShape) -> float:
        return max(self.predict_stage(shape, stage) for stage in range(len(self._stages)))

    def predict_stage(self, shape: BatchShape, stage: int) -> float:
        """Seconds that ``stage`` takes for ``shape``."""
        return self._prior(shape, stage) * math.exp(self._log_factor(shape, stage))

    def observe(self, shape: BatchShape, stage: int, seconds: float) -> None:
        """Take a measured step. Steps without tokens or without a duration teach nothing."""
        if shape.num_tokens <= 0 or seconds <= 0.0:
            return
        predicted = self.predict_stage(shape, stage)
        self._error.observe(abs(predicted - seconds) / seconds)
        log_ratio = math.log(seconds / self._prior(shape, stage))
        self._stage_factors[stage].observe(log_ratio)
        buckets = self._bucket_factors[stage]
        buckets.setdefault(round(_bucket(shape)), _RunningFactor()).observe(log_ratio)

    def _prior(self, shape: BatchShape, stage: int) -> float:
        cost, profile = self._stages[stage], self._profile
        bandwidth = profile.memory_bandwidth_bytes_per_second
        weights_seconds = cost.weight_bytes / bandwidth
        flops_seconds = 2 * cost.num_parameters * shape.num_tokens / profile.flops_per_second
        kv_seconds = shape.num_kv_tokens * cost.kv_bytes_per_token / bandwidth
        return max(weights_seconds, flops_seconds) + kv_seconds + profile.step_overhead_seconds

    def _log_factor(self, shape: BatchShape, stage: int) -> float:
        """Interpolated between the two nearest buckets; an unseen bucket has the stage's factor."""
        position = _bucket(shape)
        low = math.floor(position)
        share = position - low
        return (1 - share) * self._bucket_log(stage, low) + share * self._bucket_log(stage, low + 1)

    def _bucket_log(self, stage: int, bucket: int) -> float:
        factor = self._bucket_factors[stage].get(bucket)
        return (factor or self._stage_factors[stage]).log_factor

    def _knee(self, cost: StageCost) -> float:
        per_token = 2 * max(1, cost.num_parameters) / self._profile.flops_per_second
        return cost.weight_bytes / self._profile.memory_bandwidth_bytes_per_second / per_token


def _bucket(shape: BatchShape) -> float:
    return _BUCKETS_PER_OCTAVE * math.log2(max(1, shape.num_tokens))
