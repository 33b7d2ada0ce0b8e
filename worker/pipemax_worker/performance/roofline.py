"""The estimator that a run starts with where nothing was measured: a roofline, corrected online."""

from __future__ import annotations

from collections.abc import Sequence

from pipemax_worker.performance.correction import CorrectedEstimator
from pipemax_worker.performance.hardware import HardwareProfile
from pipemax_worker.performance.step_cost import RooflineCost, StageCost

__all__ = ["RooflineEstimator", "StageCost"]


class RooflineEstimator(CorrectedEstimator):
    """The roofline of ``stages`` on ``profile``, corrected by what the stages report."""

    def __init__(self, profile: HardwareProfile, stages: Sequence[StageCost]) -> None:
        self._roofline = RooflineCost(profile, stages)
        super().__init__(self._roofline)

    @property
    def knee_tokens(self) -> int:
        """As ``RooflineCost.knee_tokens``."""
        return self._roofline.knee_tokens
