"""Blocks, their slots in every tier and what may be dropped: the state under ``BlockManager``.

Knows nothing of copy jobs; a slot that a copy uses is pinned in its pool and never droppable.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Final

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.transfers import pack_int32
from pipemax_worker.errors import InvariantError
from pipemax_worker.kvcache.block import DEVICE, HOST, NVME, TIERS, Block
from pipemax_worker.kvcache.eviction import EvictionPolicy, LRUEviction
from pipemax_worker.kvcache.prefix_index import PrefixIndex
from pipemax_worker.kvcache.slot_pool import SlotPool

_DEVICE: Final = int(DEVICE)  # a list is faster at a plain int


class BlockTable:
    """Block -> {tier: slot}, with every derived index kept in step.

    blocks             id -> block, referenced or cached. Ids count up and are never used again.
    droppable          tier -> blocks whose copy there may be dropped now.
    device_slots       id -> its DEVICE slot as four bytes, ready for a message.
    off_device         ids without a DEVICE slot.
    num_cached_slots   tier -> slots held by unreferenced blocks.
    takes_referenced   whether blocks in use are among ``droppable`` on DEVICE.
    """

    def __init__(self, num_slots: Mapping[Tier, int], eviction: EvictionPolicy) -> None:
        self.blocks: dict[int, Block] = {}
        self.pools = tuple(SlotPool(num_slots.get(tier, 0)) for tier in TIERS)
        self.droppable: tuple[EvictionPolicy, ...] = (eviction, LRUEviction(), LRUEviction())
        self.takes_referenced = eviction.takes_referenced
        self.prefix_index = PrefixIndex()
        self.device_slots: dict[int, bytes] = {}
        self.off_device: set[int] = set()
        self.num_cached_slots = [0, 0, 0]
        self.num_cached_blocks = 0
        self._packed_slots = [pack_int32((slot,)) for slot in range(self.pools[DEVICE].num_slots)]
        self._next_block_id = 0

    # --- blocks

    def add_block(self) -> Block:
        block = Block(self._next_block_id)
        self._next_block_id += 1
        self.blocks[block.block_id] = block
        self.off_device.add(block.block_id)
        return block

    def add_on_device(self, num_blocks: int, *, has_host_slot: bool) -> list[int]:
        """New blocks with free slots, on DEVICE and, if wanted, on HOST; the ids."""
        slots = self.pools[DEVICE].allocate(num_blocks)
        host_slots = self.pools[HOST].allocate(num_blocks) if has_host_slot else ()
        first = self._next_block_id
        self._next_block_id += num_blocks
        block_ids = list(range(first, first + num_blocks))
        for index, block_id in enumerate(block_ids):
            block = self.blocks[block_id] = Block(block_id)
            block.slots[_DEVICE] = slot = slots[index]
            self.device_slots[block_id] = self._packed_slots[slot]
            if host_slots:
                block.slots[HOST] = host_slots[index]
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
            for tier in TIERS:
                self.droppable[tier].remove(block.block_id)
            self.refresh(block, DEVICE)

    def dereference(self, block: Block) -> None:
        """Drop one reference; the last one leaves a cached block or none at all."""
        if block.ref_count == 1 and block.block_hash is None:
            self._remove_used(block)
            return
        if block.ref_count < 1:
            raise InvariantError(f"block {block.block_id} is freed but nobody holds it")
        block.ref_count -= 1
        if block.ref_count == 0:
            self._count_cached(block, 1)
            if block.block_hash is None or not block.has_any_copy():
                self.remove_block(block)
            else:
                self.refresh_all(block)
        elif block.ref_count == block.num_parked_refs:
            self._retreat(block)

    def _remove_used(self, block: Block) -> None:
        """``remove_block`` of one that was never cached, nor could be: nearly all that end."""
        block_id = block.block_id
        for pool, slot in zip(self.pools, block.slots, strict=True):
            if slot is not None:
                pool.release(slot)
        if self.takes_referenced:
            self.droppable[DEVICE].remove(block_id)
        if self.device_slots.pop(block_id, None) is None:
            self.off_device.remove(block_id)
        block.ref_count = 0
        del self.blocks[block_id]

    def _retreat(self, block: Block) -> None:
        """Only requests that have not come yet hold the block: it is on NVME and nowhere else."""
        if not block.has_copy(NVME):
            self.lose(block)
        else:
            self.release_slot(block, DEVICE)
            self.release_slot(block, HOST)

    def _count_cached(self, block: Block, change: int) -> None:
        self.num_cached_blocks += change
        for tier in TIERS:
            if block.slots[tier] is not None:
                self.num_cached_slots[tier] += change

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
        self.num_cached_blocks -= 1
        self.off_device.remove(block.block_id)
        del self.blocks[block.block_id]

    def lose(self, block: Block) -> None:
        """The content is gone everywhere. A referenced block stays, without slots, to be freed."""
        if block.ref_count:
            self.forget_content(block)
        else:
            self.remove_block(block)

    # --- slots

    def give_slot(self, block: Block, tier: Tier, slot: int) -> None:
        """``slot``, allocated from the tier's pool, is the block's; no content counts yet."""
        block.slots[tier] = slot
        if block.ref_count == 0:
            self.num_cached_slots[tier] += 1
        if tier is DEVICE:
            self.device_slots[block.block_id] = self._packed_slots[slot]
            self.off_device.remove(block.block_id)

    def load_all(self, blocks: Sequence[Block], slots: Sequence[int]) -> None:
        """Each block, which has none, gets its DEVICE slot, and its content counts there."""
        packed_slots, device_slots = self._packed_slots, self.device_slots
        for block, slot in zip(blocks, slots, strict=True):
            block.slots[_DEVICE] = slot
            block.copies[_DEVICE] = block.version
            device_slots[block.block_id] = packed_slots[slot]
            if not block.ref_count:
                self.num_cached_slots[_DEVICE] += 1
        self.off_device.difference_update([block.block_id for block in blocks])

    def unload_all(self, blocks: Sequence[Block]) -> None:
        """``release_slot`` on DEVICE of each block, which has one there, in order."""
        slots: list[int | None] = []
        device_slots = self.device_slots
        for block in blocks:
            places = block.slots
            slots.append(places[_DEVICE])
            places[_DEVICE] = None
            block.copies[_DEVICE] = block.incoming[_DEVICE] = 0
            del device_slots[block.block_id]
            if not block.ref_count:
                self.num_cached_slots[_DEVICE] -= 1
        self.pools[DEVICE].release_all([slot for slot in slots if slot is not None])
        block_ids = [block.block_id for block in blocks]
        self.off_device.update(block_ids)
        self.droppable[DEVICE].remove_all(block_ids)

    def release_slot(self, block: Block, tier: Tier) -> None:
        """Give the block's slot back, if it has one; free once no copy in flight uses it."""
        slot = block.slots[tier]
        if slot is None:
            return
        self.pools[tier].release(slot)
        block.slots[tier] = None
        block.copies[tier] = block.incoming[tier] = 0
        self.droppable[tier].remove(block.block_id)
        if block.ref_count == 0:
            self.num_cached_slots[tier] -= 1
        if tier is DEVICE:
            del self.device_slots[block.block_id]
            self.off_device.add(block.block_id)

    def refresh(self, block: Block, tier: Tier) -> None:
        """Bring ``droppable`` in step after a change of references, pins or valid copies."""
        if block.ref_count and (tier is not DEVICE or not self.takes_referenced):
            return  # never listed
        if self.is_droppable(block, tier):
            self.droppable[tier].insert(block.block_id, block.ref_count > 0)
        else:
            self.droppable[tier].remove(block.block_id)

    def refresh_all(self, block: Block) -> None:
        if block.ref_count and not self.takes_referenced:
            return
        for tier in TIERS:
            self.refresh(block, tier)

    def is_droppable(self, block: Block, tier: Tier) -> bool:
        """Whether the copy may go: no copy in flight uses its slot, and it is cached or, on DEVICE,
        backed up, if the policy takes blocks in use. A reserved slot that holds nothing yet is
        droppable likewise."""
        slot = block.slots[tier]
        if slot is None or self.pools[tier].is_pinned(slot):
            return False
        if block.ref_count == 0:
            return True
        return tier is DEVICE and self.takes_referenced and block.has_backup()

    # --- room

    def choose_victims(
        self, tier: Tier, num_slots: int, protected: Container[int]
    ) -> list[int] | None:
        """Blocks whose copies must go so that ``num_slots`` are free; None if that is impossible.

        Changes nothing, so that an order over two tiers can be refused as a whole.
        """
        num_missing = num_slots - self.pools[tier].num_free
        if num_missing <= 0:
            return []
        if len(self.droppable[tier]) < num_missing:
            return None
        victims = self.droppable[tier].evict(num_missing, protected)
        return victims if len(victims) == num_missing else None

    def drop(self, tier: Tier, block_ids: Iterable[int]) -> None:
        """Drop these blocks' copies. A cached block without any copy left ceases to exist."""
        for block_id in block_ids:
            block = self.blocks.get(block_id)
            if block is not None:
                self.release_slot(block, tier)
                if block.ref_count == 0 and not block.has_any_copy():
                    self.remove_block(block)

    def take_slots(self, tier: Tier, num_slots: int, protected: Container[int]) -> list[int] | None:
        """Allocate slots, dropping copies as needed; None, and nothing changed, if impossible."""
        victims = self.choose_victims(tier, num_slots, protected)
        if victims is None:
            return None
        self.drop(tier, victims)
        return self.pools[tier].allocate(num_slots)
