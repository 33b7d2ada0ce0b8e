"""One block's content and who holds it. Where its copies are is the tiers' (``tier_places``)."""

from __future__ import annotations

from typing import Final

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.kvcache.prefix_index import BlockHash

# An enum member's attribute look-up costs more than the work around it in the hot paths.
DEVICE: Final = Tier.DEVICE
HOST: Final = Tier.HOST
NVME: Final = Tier.NVME
TIERS: Final = (DEVICE, HOST, NVME)


class Block:
    """``block_tokens`` tokens of KV under one id for life. Written by ``BlockTable`` and its parts.

    Content has a version: 0 is *none*, and every change of what is filled counts it up. A copy is
    valid if it holds the present version, so an append makes every older copy void at once, landed
    or in flight, and a block cut back and refilled never matches an old copy by its token count.

    num_parked_refs   those of ``ref_count`` whose request has not come yet (``parking``).
    """

    __slots__ = ("block_hash", "block_id", "num_parked_refs", "num_tokens", "ref_count", "version")

    def __init__(self, block_id: int) -> None:
        self.block_id = block_id
        self.ref_count = 1
        self.num_parked_refs = 0
        self.num_tokens = 0
        self.version = 0
        self.block_hash: BlockHash | None = None
