"""``vllm-tp``: vLLM's scheduler over cards in tensor parallelism; preemption by recompute."""

from __future__ import annotations

import msgspec

from pipemax_worker.planner.rivals import tensor_parallel
from pipemax_worker.planner.simulation import Simulation, SimulationResult, SimulationSettings
from pipemax_worker.planner.workload import Workload


def simulate_vllm_tp(settings: SimulationSettings, workload: Workload) -> SimulationResult:
    """``settings`` are the pipeline's: its cards, its room, its limits.

    Raises RequestError if a request can never run.
    """
    cost = tensor_parallel.derive_cost(settings)
    result = Simulation(as_one_stage(settings), workload, cost).run()
    return _with_all_cards(result, settings.node.num_gpus)


def as_one_stage(settings: SimulationSettings) -> SimulationSettings:
    """All cards take every step together, so there is one micro-batch."""
    scheduler = settings.scheduler
    geometry = msgspec.structs.replace(
        settings.geometry,
        layers_of_stage=(settings.model.num_hidden_layers,),
        mlp_left_by_stage=(),
        num_device_slots=tensor_parallel.num_slots(settings),
        num_host_slots=0,
        num_nvme_slots=0,
    )
    return msgspec.structs.replace(
        settings,
        policy="vllm",
        scheduler=msgspec.structs.replace(
            scheduler,
            geometry=geometry,
            num_micro_batches=1,
            max_num_requests=tensor_parallel.max_num_requests(scheduler),
        ),
    )


def _with_all_cards(result: SimulationResult, num_cards: int) -> SimulationResult:
    """Each card computes when the others do: one entry a card, as a pipeline has one a stage."""
    only = result.statistics.stages[0]
    stages = tuple(msgspec.structs.replace(only, stage=card) for card in range(num_cards))
    statistics = msgspec.structs.replace(result.statistics, stages=stages)
    return msgspec.structs.replace(result, statistics=statistics)
