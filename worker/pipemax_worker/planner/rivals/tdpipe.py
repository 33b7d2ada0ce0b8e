"""TD-Pipe with the knowledge of output lengths that it was published with.

As a policy of our engine it learns lengths from finished outputs, like all others. Simulated
lengths are known, so it can be given the oracle, or a predictor as good as its own.
"""

from __future__ import annotations

import msgspec

from pipemax_worker.engine.output_lengths import LengthPrediction
from pipemax_worker.planner.simulation import SimulationResult, SimulationSettings, simulate
from pipemax_worker.planner.workload import Workload


def simulate_tdpipe_oracle(settings: SimulationSettings, workload: Workload) -> SimulationResult:
    """Every output's length is known. Raises RequestError if a request can never run."""
    return simulate(_with_prediction(settings, LengthPrediction.LIMIT), workload)


def simulate_tdpipe_predictor(settings: SimulationSettings, workload: Workload) -> SimulationResult:
    """Predicted with accuracy 0.55 (``output_lengths.bin_prediction``). Raises RequestError."""
    return simulate(_with_prediction(settings, LengthPrediction.BINNED), workload)


def _with_prediction(
    settings: SimulationSettings, prediction: LengthPrediction
) -> SimulationSettings:
    """Nothing is offloaded. What outputs are told apart by are their limits: the workload's
    lengths, unless it hides them."""
    geometry = msgspec.structs.replace(settings.geometry, num_host_slots=0, num_nvme_slots=0)
    scheduler = msgspec.structs.replace(
        settings.scheduler, geometry=geometry, length_prediction=prediction
    )
    return msgspec.structs.replace(settings, policy="tdpipe", scheduler=scheduler)
