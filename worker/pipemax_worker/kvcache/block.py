"""One block's state: where its copies are and which of them hold its present content."""

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

    slots      tier -> its slot there, or None.
    copies     tier -> version that its slot holds (0: reserved only). On DEVICE a copy counts once
               it is ordered, elsewhere once all stages have reported it.
    incoming   tier -> version that an unreported copy brings there, 0 for none.
    num_parked_refs   those of ``ref_count`` whose request has not come yet (``parking``).
    """

    __slots__ = (
        "block_hash",
        "block_id",
        "copies",
        "incoming",
        "num_parked_refs",
        "num_tokens",
        "ref_count",
        "slots",
        "version",
    )

    def __init__(self, block_id: int) -> None:
        self.block_id = block_id
        self.ref_count = 1
        self.num_parked_refs = 0
        self.num_tokens = 0
        self.version = 0
        self.block_hash: BlockHash | None = None
        self.slots: list[int | None] = [None, None, None]
        self.copies = [0, 0, 0]
        self.incoming = [0, 0, 0]

    def has_copy(self, tier: Tier) -> bool:
        """Whether the tier's slot holds the present content."""
        return self.version > 0 and self.copies[tier] == self.version

    def has_backup(self) -> bool:
        """Whether the content would survive the loss of the DEVICE copy."""
        version, copies = self.version, self.copies
        return version > 0 and (copies[1] == version or copies[2] == version)

    def has_any_copy(self) -> bool:
        return self.version > 0 and self.version in self.copies
