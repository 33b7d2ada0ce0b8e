"""One tier of the block table: which block has which slot there, and what it holds.

Columns by block id, not fields of the blocks: rotation moves hundreds of blocks a message, and a
whole run of ids goes through a dictionary or a set at a tenth of what an object each costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from operator import itemgetter

from pipemax_worker.kvcache.eviction import EvictionPolicy
from pipemax_worker.kvcache.slot_pool import SlotPool

_NO_SLOT = -1


class TierPlaces:
    """Written by ``BlockTable`` and its parts.

    slots        id -> its slot here.
    valid        ids whose slot holds the present content, reported by all stages (a store: ordered
                 by an earlier message). Not kept on DEVICE: what has a slot there and is filled is
                 valid.
    incoming     id -> version that a copy brings which does not count yet.
    droppable    blocks whose copy here may be dropped now.
    num_cached   slots of blocks that nobody references.
    """

    __slots__ = ("droppable", "incoming", "num_cached", "pool", "slots", "valid")

    def __init__(self, num_slots: int, droppable: EvictionPolicy) -> None:
        self.pool = SlotPool(num_slots)
        self.droppable = droppable
        self.slots: dict[int, int] = {}
        self.valid: set[int] = set()
        self.incoming: dict[int, int] = {}
        self.num_cached = 0

    def slots_of(self, block_ids: Sequence[int]) -> tuple[int, ...]:
        """One a block. Raises KeyError, with the id, if one has none."""
        if len(block_ids) == 1:
            return (self.slots[block_ids[0]],)
        return itemgetter(*block_ids)(self.slots) if block_ids else ()

    def count_valid(self, block_ids: Sequence[int]) -> int:
        """How many, from the first on, are ``valid``. Of a request's, all but perhaps the last."""
        if not block_ids:
            return 0
        if block_ids[-1] not in self.valid:
            block_ids = block_ids[:-1]
        if self.valid.issuperset(block_ids):
            return len(block_ids)
        return [block_id in self.valid for block_id in block_ids].index(False)

    def take_out(self, block_ids: Sequence[int]) -> list[int]:
        """Slots of those that have one, in order; they have none then, and nothing on its way."""
        slots = list(map(self.slots.pop, block_ids, repeat(_NO_SLOT)))
        if _NO_SLOT in slots:
            slots = [slot for slot in slots if slot != _NO_SLOT]
        if self.valid:
            self.valid.difference_update(block_ids)
        if self.incoming:
            for block_id in block_ids:
                self.incoming.pop(block_id, None)
        return slots
