"""How full the tiers are, for admission and for the metric ``pipemax_kv_blocks``."""

from __future__ import annotations

import msgspec

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.kvcache.block_table import BlockTable


class TierOccupancy(msgspec.Struct, frozen=True):
    """The slots of one tier; the three add up to its capacity.

    used     held by referenced blocks, or released while a copy in flight still uses them.
    cached   held by blocks that nobody references, kept for later prefix hits.
    """

    used: int
    cached: int
    free: int


def derive_occupancy(table: BlockTable, tier: Tier) -> TierOccupancy:
    places = table.tiers[tier]
    num_free, num_cached = places.pool.num_free, places.num_cached
    return TierOccupancy(
        used=places.pool.num_slots - num_free - num_cached, cached=num_cached, free=num_free
    )
