"""The engine's statistics as one frozen value."""

from __future__ import annotations

import msgspec

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.statistics import EngineStatistics, LinkRate, TierOccupancy
from pipemax_worker.engine.lifecycle import Lifecycle
from pipemax_worker.kvcache.block_manager import BlockManager
from pipemax_worker.performance.batch_shape import Estimator
from pipemax_worker.performance.link import LINKS, LinkEstimator


def derive_statistics(
    lifecycle: Lifecycle, manager: BlockManager, estimator: Estimator, links: LinkEstimator
) -> EngineStatistics:
    """The counters, with the present state of queues, tiers and estimators."""
    num_waiting = len(lifecycle.admission.waiting)
    num_running = sum(lifecycle.micro_batches.sizes)
    return msgspec.structs.replace(
        lifecycle.accounting.snapshot(),
        num_waiting=num_waiting,
        num_running=num_running,
        num_preempted=lifecycle.num_unfinished - num_waiting - num_running,
        estimator_error_ratio=estimator.error_ratio,
        occupancy=_occupancy(manager),
        links=tuple(LinkRate(*link, links.bandwidth(*link)) for link in LINKS),
    )


def _occupancy(manager: BlockManager) -> tuple[TierOccupancy, ...]:
    occupancy = manager.occupancy()
    return tuple(
        TierOccupancy(tier, occupancy[tier].used, occupancy[tier].cached, occupancy[tier].free)
        for tier in Tier
    )
