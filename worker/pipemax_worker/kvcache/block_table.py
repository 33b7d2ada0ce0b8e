"""Blocks, their slots in every tier and what may be dropped: the state under ``BlockManager``.

Knows nothing of copy jobs; a slot that a copy uses is pinned in its pool and never droppable.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.errors import InvariantError
from pipemax_worker.kvcache.block import DEVICE, HOST, NVME, TIERS, Block
from pipemax_worker.kvcache.eviction import EvictionPolicy, LRUEviction
from pipemax_worker.kvcache.prefix_index import PrefixIndex
from pipemax_worker.kvcache.tier_places import TierPlaces


class BlockTable:
    """Block -> {tier: slot}, with every derived index kept in step.

    blocks             id -> block, referenced or cached. Ids count up and are never used again.
    cached             ids of blocks that nobody references.
    tiers              places by tier; ``device``, ``host`` and ``nvme`` are the same.
    takes_referenced   whether blocks in use are among ``droppable`` on DEVICE.
    """

    def __init__(self, num_slots: Mapping[Tier, int], eviction: EvictionPolicy) -> None:
        self.blocks: dict[int, Block] = {}
        self.cached: set[int] = set()
        self.device = TierPlaces(num_slots.get(DEVICE, 0), eviction)
        self.host = TierPlaces(num_slots.get(HOST, 0), LRUEviction())
        self.nvme = TierPlaces(num_slots.get(NVME, 0), LRUEviction())
        self.tiers = (self.device, self.host, self.nvme)
        self.takes_referenced = eviction.takes_referenced
        self.prefix_index = PrefixIndex()
        self._next_block_id = 0

    # --- blocks

    def add_block(self) -> Block:
        block = Block(self._next_block_id)
        self._next_block_id += 1
        self.blocks[block.block_id] = block
        return block

    def add_on_device(self, sizes: Sequence[int], *, has_host_slot: bool) -> list[int]:
        """New blocks with free slots, on DEVICE and, if wanted, on HOST; the ids. Of runs of these
        sizes, taken one after the other."""
        first = self._next_block_id
        self._next_block_id += sum(sizes)
        block_ids = list(range(first, self._next_block_id))
        for places in (self.device, self.host) if has_host_slot else (self.device,):
            places.slots.update(zip(block_ids, places.pool.allocate_each(sizes), strict=True))
        self.blocks.update(zip(block_ids, map(Block, block_ids), strict=True))
        return block_ids

    def block(self, block_id: int) -> Block:
        """Raises InvariantError for a block that does not exist any more."""
        try:
            return self.blocks[block_id]
        except KeyError:
            raise InvariantError(
                f"block {block_id} does not exist; it was freed or its content dropped"
            ) from None

    def distinct(self, block_ids: Iterable[int]) -> list[Block]:
        blocks = self.blocks
        distinct_ids = dict.fromkeys(block_ids)
        try:
            return [blocks[block_id] for block_id in distinct_ids]
        except KeyError:
            return [self.block(block_id) for block_id in distinct_ids]  # says which one

    def reference(self, block: Block) -> None:
        block.ref_count += 1
        if block.ref_count == 1:
            self._count_cached(block, -1)
            for places in self.tiers:
                places.droppable.remove(block.block_id)
            self.refresh(block, DEVICE)

    def dereference_all(self, block_ids: Sequence[int]) -> None:
        """Drop one reference of each, in order."""
        blocks = self.distinct(block_ids)
        is_plain = all([block.ref_count == 1 and block.block_hash is None for block in blocks])
        if is_plain and len(blocks) == len(block_ids):
            self._remove_used(block_ids)
            return
        for block_id in block_ids:
            self.dereference(self.block(block_id))

    def dereference(self, block: Block) -> None:
        """Drop one reference; the last one leaves a cached block or none at all."""
        if block.ref_count == 1 and block.block_hash is None:
            self._remove_used((block.block_id,))
            return
        if block.ref_count < 1:
            raise InvariantError(f"block {block.block_id} is freed but nobody holds it")
        block.ref_count -= 1
        if block.ref_count == 0:
            self._count_cached(block, 1)
            if block.block_hash is None or not self.has_any_copy(block):
                self.remove_block(block)
            else:
                self.refresh_all(block)
        elif block.ref_count == block.num_parked_refs:
            self._retreat(block)

    def _remove_used(self, block_ids: Sequence[int]) -> None:
        """``remove_block`` of those that were never cached, nor could be: nearly all that end."""
        for places in self.tiers:
            places.pool.release_all(places.take_out(block_ids))
        if self.takes_referenced:
            self.device.droppable.remove_all(block_ids)
        for block_id in block_ids:
            self.blocks.pop(block_id).ref_count = 0

    def _retreat(self, block: Block) -> None:
        """Only requests that have not come yet hold the block: it is on NVME and nowhere else."""
        if block.block_id not in self.nvme.valid:
            self.lose(block)
        else:
            self.release_slot(block, DEVICE)
            self.release_slot(block, HOST)

    def _count_cached(self, block: Block, change: int) -> None:
        if change > 0:
            self.cached.add(block.block_id)
        else:
            self.cached.remove(block.block_id)
        for places in self.tiers:
            if block.block_id in places.slots:
                places.num_cached += change

    def forget_content(self, block: Block) -> None:
        """The block leaves the prefix index and every tier; copies in flight no longer count."""
        if block.block_hash is not None:
            self.prefix_index.remove(block.block_hash)
            block.block_hash = None
        for tier in TIERS:
            self.release_slot(block, tier)
        block.num_tokens = block.version = 0

    def remove_block(self, block: Block) -> None:
        self.forget_content(block)
        self.cached.remove(block.block_id)
        del self.blocks[block.block_id]

    def lose(self, block: Block) -> None:
        """The content is gone everywhere. A referenced block stays, without slots, to be freed."""
        if block.ref_count:
            self.forget_content(block)
        else:
            self.remove_block(block)

    # --- copies

    def has_copy(self, block: Block, tier: Tier) -> bool:
        """Whether the tier's slot holds the present content."""
        if tier is DEVICE:
            return block.version > 0 and block.block_id in self.device.slots
        return block.block_id in self.tiers[tier].valid

    def has_backup(self, block_id: int) -> bool:
        """Whether the content would survive the loss of the DEVICE copy."""
        return block_id in self.host.valid or block_id in self.nvme.valid

    def has_any_copy(self, block: Block) -> bool:
        return self.has_backup(block.block_id) or self.has_copy(block, DEVICE)

    # --- slots

    def give_slot(self, block: Block, tier: Tier, slot: int) -> None:
        """``slot``, allocated from the tier's pool, is the block's; no content counts yet."""
        self.tiers[tier].slots[block.block_id] = slot
        if block.ref_count == 0:
            self.tiers[tier].num_cached += 1

    def load_all(self, block_ids: Sequence[int], slots: Sequence[int]) -> None:
        """Each block, which has none, gets its DEVICE slot, and its content counts there."""
        self.device.slots.update(zip(block_ids, slots, strict=True))
        if self.cached:
            self.device.num_cached += len(self.cached.intersection(block_ids))

    def unload_all(self, block_ids: Sequence[int]) -> None:
        """``release_slot`` on DEVICE of each block, in order."""
        device = self.device
        if self.cached:
            device.num_cached -= len(self.cached.intersection(block_ids) & device.slots.keys())
        device.pool.release_all(device.take_out(block_ids))
        device.droppable.remove_all(block_ids)

    def release_slot(self, block: Block, tier: Tier) -> None:
        """Give the block's slot back, if it has one; free once no copy in flight uses it."""
        places = self.tiers[tier]
        slots = places.take_out((block.block_id,))
        if not slots:
            return
        places.pool.release(slots[0])
        places.droppable.remove(block.block_id)
        if block.ref_count == 0:
            places.num_cached -= 1

    def refresh(self, block: Block, tier: Tier) -> None:
        """Bring ``droppable`` in step after a change of references, pins or valid copies."""
        if block.ref_count and (tier is not DEVICE or not self.takes_referenced):
            return  # never listed
        if self.is_droppable(block, tier):
            self.tiers[tier].droppable.insert(block.block_id, block.ref_count > 0)
        else:
            self.tiers[tier].droppable.remove(block.block_id)

    def listed(self, block_ids: Iterable[int]) -> list[Block]:
        """Those that ``droppable`` may name. Blocks in use are most, so they are left out first."""
        if self.takes_referenced:
            return [block for b in block_ids if (block := self.blocks.get(b)) is not None]
        if not self.cached:
            return []
        return [self.blocks[block_id] for block_id in block_ids if block_id in self.cached]

    def refresh_all(self, block: Block) -> None:
        if block.ref_count and not self.takes_referenced:
            return
        for tier in TIERS:
            self.refresh(block, tier)

    def is_droppable(self, block: Block, tier: Tier) -> bool:
        """Whether the copy may go: no copy in flight uses its slot, and it is cached or, on DEVICE,
        backed up, if the policy takes blocks in use. A reserved slot that holds nothing yet is
        droppable likewise."""
        places = self.tiers[tier]
        slot = places.slots.get(block.block_id)
        if slot is None or places.pool.is_pinned(slot):
            return False
        if block.ref_count == 0:
            return True
        return tier is DEVICE and self.takes_referenced and self.has_backup(block.block_id)

    # --- room

    def choose_victims(
        self, tier: Tier, num_slots: int, protected: Container[int]
    ) -> list[int] | None:
        """Blocks whose copies must go so that ``num_slots`` are free; None if that is impossible.

        Changes nothing, so that an order over two tiers can be refused as a whole.
        """
        places = self.tiers[tier]
        num_missing = num_slots - places.pool.num_free
        if num_missing <= 0:
            return []
        if len(places.droppable) < num_missing:
            return None
        victims = places.droppable.evict(num_missing, protected)
        return victims if len(victims) == num_missing else None

    def drop(self, tier: Tier, block_ids: Iterable[int]) -> None:
        """Drop these blocks' copies. A cached block without any copy left ceases to exist."""
        for block_id in block_ids:
            block = self.blocks.get(block_id)
            if block is not None:
                self.release_slot(block, tier)
                if block.ref_count == 0 and not self.has_any_copy(block):
                    self.remove_block(block)

    def take_slots(self, tier: Tier, num_slots: int, protected: Container[int]) -> list[int] | None:
        """Allocate slots, dropping copies as needed; None, and nothing changed, if impossible."""
        victims = self.choose_victims(tier, num_slots, protected)
        if victims is None:
            return None
        self.drop(tier, victims)
        return self.tiers[tier].pool.allocate(num_slots)
