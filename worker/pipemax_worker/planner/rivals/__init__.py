"""Systems that are simulated only, to compare with: a job cannot choose them."""

from __future__ import annotations

from collections.abc import Callable

from pipemax_worker.errors import JobFileError
from pipemax_worker.planner.rivals.seesaw import simulate_seesaw
from pipemax_worker.planner.rivals.tdpipe import (
    simulate_tdpipe_oracle,
    simulate_tdpipe_predictor,
)
from pipemax_worker.planner.rivals.vllm_tp import simulate_vllm_tp
from pipemax_worker.planner.simulation import SimulationResult, SimulationSettings
from pipemax_worker.planner.workload import Workload

RIVALS: dict[str, Callable[[SimulationSettings, Workload], SimulationResult]] = {
    "seesaw": simulate_seesaw,
    "vllm-tp": simulate_vllm_tp,
    "tdpipe-oracle": simulate_tdpipe_oracle,
    "tdpipe-predictor": simulate_tdpipe_predictor,
}


def simulate_rival(name: str, settings: SimulationSettings, workload: Workload) -> SimulationResult:
    """``workload`` by the system called ``name`` on the cards and with the limits of ``settings``,
    which describe our pipeline there. ``busy_ratios`` has one entry a card.

    Raises JobFileError with the names there are, RequestError if a request can never run.
    """
    if name not in RIVALS:
        raise JobFileError(f"rival {name!r} is unknown; choose one of {', '.join(sorted(RIVALS))}")
    return RIVALS[name](settings, workload)
