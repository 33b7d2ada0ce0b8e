"""The paper's step time: ``T = alpha * b + beta * L + delta`` (PipeMax, arXiv 2605.02189, 4.2).

b requests, L positions of their prefixes; coefficients by least squares for each (model, GPU,
stage). It ignores the plateau of the weights' reading and the tile steps: here to compare, and for
the policy that is the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from pipemax_worker.errors import InvariantError
from pipemax_worker.performance.batch_shape import BatchShape
from pipemax_worker.performance.step_cost import StepCost, first_alike

_NUM_COEFFICIENTS = 3


class LinearCoefficients(msgspec.Struct, frozen=True):
    """Seconds a token (``alpha``), a position read (``beta``) and a step (``delta``)."""

    alpha: float
    beta: float
    delta: float


class LinearCost:
    """One set of coefficients a stage."""

    def __init__(self, stages: Sequence[LinearCoefficients]) -> None:
        self.stages = tuple(stages)
        self.alike = first_alike(self.stages)

    @property
    def num_stages(self) -> int:
        return len(self.stages)

    def stage_seconds(self, shape: BatchShape, stage: int) -> float:
        fit = self.stages[stage]
        return fit.alpha * shape.num_tokens + fit.beta * shape.num_kv_tokens + fit.delta


def fit_linear(samples: Sequence[tuple[BatchShape, float]]) -> LinearCoefficients:
    """Least squares of (shape, seconds). Raises InvariantError for fewer than three samples."""
    if len(samples) < _NUM_COEFFICIENTS:
        raise InvariantError(
            f"{len(samples)} samples do not determine three coefficients; measure more steps"
        )
    rows = [(shape.num_tokens, shape.num_kv_tokens, 1.0) for shape, _ in samples]
    seconds = [value for _, value in samples]
    alpha, beta, delta = np.linalg.lstsq(np.array(rows, float), np.array(seconds), rcond=None)[0]
    return LinearCoefficients(float(alpha), float(beta), float(delta))


def linearise(cost: StepCost, shapes: Sequence[BatchShape]) -> LinearCost:
    """The linear form fitted to another prior over ``shapes``, stage by stage."""
    return LinearCost(
        [
            fit_linear([(shape, cost.stage_seconds(shape, stage)) for shape in shapes])
            for stage in range(cost.num_stages)
        ]
    )
