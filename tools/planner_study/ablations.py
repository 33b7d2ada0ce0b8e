"""What a cell's ablation takes away, as other settings or another link."""

from __future__ import annotations

import msgspec
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.transfers import CopyJob
from pipemax_worker.performance.node_profile import NodeProfile
from pipemax_worker.planner.simulated_links import StageLinks
from pipemax_worker.planner.simulation import Simulation, SimulationResult, SimulationSettings
from pipemax_worker.planner.simulation import link_speeds as derive_link_speeds
from pipemax_worker.planner.workload import Workload

LAYER_FIRST_SHARE = 0.3 / 0.9
"""Of the bandwidth to the device: the paper has 30 % of PCIe with layer-first blocks and 90 % with
block-first ones. Copies from the device know no such cliff (vllm-project/vllm #42212)."""


class SwappingLinks(StageLinks):
    """Without write-through: nothing is stored beside the steps, and whoever is loaded waits until
    who makes room for it has been stored, as many bytes."""

    def copy(self, job: CopyJob, num_bytes: int, ordered: float) -> tuple[float, float]:
        if (job.source, job.target) == (Tier.DEVICE, Tier.HOST):
            return ordered, 0.0
        if (job.source, job.target) != (Tier.HOST, Tier.DEVICE):
            return super().copy(job, num_bytes, ordered)
        evicted = msgspec.structs.replace(job, source=job.target, target=job.source)
        stored, store_seconds = super().copy(evicted, num_bytes, ordered)
        landed, load_seconds = super().copy(job, num_bytes, stored)
        return landed, store_seconds + load_seconds


def ablate(settings: SimulationSettings, ablation: str) -> SimulationSettings:
    """Raises ValueError for an ablation that nobody knows."""
    kind, _, percent = ablation.partition("-")
    scheduler = settings.scheduler
    if kind == "static":
        ratio = int(percent) / 100
        scheduler = msgspec.structs.replace(scheduler, static_prefetch_ratio=ratio)
    elif ablation == "count-balancing":
        scheduler = msgspec.structs.replace(scheduler, balances_counts=True)
    elif ablation == "no-ordering":
        scheduler = msgspec.structs.replace(scheduler, order_window=0)
    elif ablation == "layer-first":
        return msgspec.structs.replace(settings, node=_with_slow_loads(settings))
    elif ablation not in ("whole", "no-write-through", "hidden-lengths"):
        raise ValueError(f"ablation {ablation!r} is unknown")
    return msgspec.structs.replace(settings, scheduler=scheduler)


def ablate_workload(workload: Workload, ablation: str) -> Workload:
    """With hidden lengths every request has the limit of the longest, as where nobody set one."""
    if ablation != "hidden-lengths":
        return workload
    longest = max(output for _, output in workload.lengths)
    return msgspec.structs.replace(workload, hidden_max_tokens=longest)


def simulate_without_write_through(
    settings: SimulationSettings, workload: Workload
) -> SimulationResult:
    """Raises RequestError."""
    simulation = Simulation(settings, workload)
    speeds = derive_link_speeds(settings.node)
    for stage in simulation.pipeline.stages:
        stage.links = SwappingLinks(speeds)
    return simulation.run()


def _with_slow_loads(settings: SimulationSettings) -> NodeProfile:
    link = settings.node.link
    slow = link.host_to_device_bytes_per_second * LAYER_FIRST_SHARE
    return settings.node.model_copy(
        update={"link": link.model_copy(update={"host_to_device_bytes_per_second": slow})}
    )
