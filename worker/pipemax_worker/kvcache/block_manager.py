"""Who is where: the one logical block table of the driver.

A *block* is ``block_tokens`` tokens of KV under one id for its whole life; a *slot* is its place in
one tier, the same number on every stage. This package holds only numbers: it knows no time, no
bytes, no requests. The table is the state *as of the message being composed*, not as of now; what
that makes safe is argued in ``copy_orders``, and the message order itself in ``contract.messages``.

Within one message, in this order: ``allocate``, ``mark_filled`` and ``device_slots`` for its
micro-batch, ``order_store``, and last ``order_load`` with that micro-batch in ``protected`` (its
loads run beside the forward, so a slot that they target must not be allocated after them).
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence, Set

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.transfers import CopyJob, CopyResult, pack_int32
from pipemax_worker.errors import InvariantError
from pipemax_worker.kvcache import integrity
from pipemax_worker.kvcache.block import DEVICE, HOST, NVME, TIERS
from pipemax_worker.kvcache.block_table import BlockTable
from pipemax_worker.kvcache.copies import CompletedCopy, PendingCopies
from pipemax_worker.kvcache.copy_orders import CopyOrders
from pipemax_worker.kvcache.eviction import EvictionPolicy, RotationEviction
from pipemax_worker.kvcache.filling import fill, fill_all
from pipemax_worker.kvcache.occupancy import TierOccupancy, derive_occupancy
from pipemax_worker.kvcache.parking import ParkedBlocks
from pipemax_worker.kvcache.prefix_index import BlockHash
from pipemax_worker.kvcache.write_allowance import NoWriteLimit, WriteAllowance


class BlockManager:
    """Sole owner of slots, reference counts, pins and hashes of all blocks.

    Operations cost O(blocks named); ``protected`` should be a set or a dictionary (other
    collections are copied into one). A broken rule raises InvariantError: it is a bug.
    """

    def __init__(
        self,
        num_slots: Mapping[Tier, int],
        num_stages: int,
        eviction: EvictionPolicy | None = None,
        nvme_writes: WriteAllowance | None = None,
    ) -> None:
        self._nvme_writes = nvme_writes or NoWriteLimit()
        # An empty policy has no length and so counts as false.
        policy = RotationEviction() if eviction is None else eviction
        self._table = BlockTable(num_slots, policy)
        self._pending = PendingCopies(num_stages)
        self._orders = CopyOrders(self._table, self._pending, self._nvme_writes)
        self.parked = ParkedBlocks(self._table)
        self.has_host_tier = num_slots.get(HOST, 0) > 0
        self.has_nvme_tier = num_slots.get(NVME, 0) > 0

    # --- capacity

    @property
    def num_free_device_slots(self) -> int:
        return self._table.device.pool.num_free

    @property
    def num_cached_device_slots(self) -> int:
        """Held by blocks that nobody references."""
        return self._table.device.num_cached

    @property
    def num_free_host_slots(self) -> int:
        return self._table.host.pool.num_free

    @property
    def num_free_nvme_slots(self) -> int:
        return self._table.nvme.pool.num_free

    def num_available_device_slots(self, protected: Collection[int] = ()) -> int:
        """Free slots and those that can be evicted now, blocks in ``protected`` left alone."""
        droppable = self._table.device.droppable
        num_available = self.num_free_device_slots + len(droppable)
        if len(droppable) and protected:
            num_available -= sum(map(droppable.__contains__, _as_set(protected)))
        return num_available

    @property
    def num_available_host_slots(self) -> int:
        """Free slots and those of cached blocks that can be dropped now."""
        return self.num_free_host_slots + len(self._table.host.droppable)

    @property
    def num_available_nvme_slots(self) -> int:
        """Free slots and those of cached blocks that can be dropped now, as far as writing is
        allowed."""
        num_slots = self.num_free_nvme_slots + len(self._table.nvme.droppable)
        return self._nvme_writes.num_blocks(num_slots)

    # --- life

    def allocate(self, num_blocks: int, protected: Collection[int] = ()) -> list[int] | None:
        """New blocks with one reference, each with a DEVICE slot and, where there is a host tier, a
        reserved HOST slot, so that write-through never waits. Evicts and drops as needed, never a
        protected block; None, and nothing changed, if that does not make enough room.
        """
        if not self._is_free(num_blocks) and not self._make_free(num_blocks, _as_set(protected)):
            return None
        return self._table.add_on_device((num_blocks,), has_host_slot=self.has_host_tier)

    def allocate_each(self, sizes: Sequence[int]) -> list[int] | None:
        """``allocate`` of each size, one after the other; all blocks as one list. None, and nothing
        changed, if that would have to evict or drop anything."""
        if not self._is_free(sum(sizes)):
            return None
        return self._table.add_on_device(sizes, has_host_slot=self.has_host_tier)

    def _is_free(self, num_slots: int) -> bool:
        table = self._table
        is_free = table.device.pool.num_free >= num_slots
        return is_free and (not self.has_host_tier or table.host.pool.num_free >= num_slots)

    def _make_free(self, num_slots: int, protected: Container[int]) -> bool:
        """On DEVICE and HOST; False, and nothing changed, if one of them has no room."""
        table = self._table
        tiers = (DEVICE, HOST) if self.has_host_tier else (DEVICE,)
        victims = [table.choose_victims(tier, num_slots, protected) for tier in tiers]
        if None in victims:
            return False
        for tier, block_ids in zip(tiers, victims, strict=True):
            table.drop(tier, block_ids or ())
        return True

    def touch(self, block_ids: Iterable[int]) -> None:
        """One more reference to each block (a prefix hit); cached ones cannot be dropped now."""
        for block_id in block_ids:
            self._table.reference(self._table.block(block_id))

    def free(self, block_ids: Sequence[int]) -> None:
        """One reference less. A block that loses its last one stays cached if it is in the prefix
        index and valid somewhere; otherwise its slots go back once no copy in flight uses them.
        The tail is evicted before the head, without which it is of no use.
        """
        self._table.dereference_all(block_ids[::-1])

    # --- content

    def mark_filled(self, block_id: int, num_tokens: int) -> None:
        """The message being composed writes KV on the DEVICE, up to the first ``num_tokens``
        positions of the block. Copies of another fill are void from now on. The same number again
        changes nothing. Raises InvariantError for a shared block or one not on the device.
        """
        block = self._table.blocks.get(block_id) or self._table.block(block_id)
        if num_tokens != block.num_tokens:
            fill(self._table, block, num_tokens)

    def mark_all_filled(self, block_ids: Sequence[int], num_tokens: Sequence[int]) -> None:
        """``mark_filled`` of each block."""
        fill_all(self._table, block_ids, num_tokens)

    def commit_hash(self, block_id: int, block_hash: BlockHash) -> None:
        """A full block enters the prefix index, readable by later messages. If another block has
        this hash already, that one stays and this one is not indexed."""
        block = self._table.block(block_id)
        if block.version == 0 or block.block_hash not in (None, block_hash):
            raise InvariantError(
                f"block {block_id} cannot be indexed: it holds nothing or has another hash"
            )
        if self._table.prefix_index.insert(block_hash, block_id):
            block.block_hash = block_hash

    def lookup_prefix(self, hashes: Sequence[BlockHash]) -> list[int]:
        """The longest run of indexed blocks from the head on, in any tier, in use or not."""
        return self._table.prefix_index.longest_prefix(hashes)

    # --- places

    def is_on_device(self, block_id: int) -> bool:
        """Has a DEVICE slot: new, valid, or its load is ordered by now."""
        return block_id in self._table.device.slots

    def missing_on_device(self, block_ids: Sequence[int]) -> list[int]:
        slots = self._table.device.slots
        return [block_id for block_id in block_ids if block_id not in slots]

    def present_on_device(self, block_ids: Iterable[int]) -> Iterator[int]:
        """Those of these blocks that are on the device, in order."""
        return filter(self._table.device.slots.__contains__, block_ids)

    def is_on_host(self, block_id: int) -> bool:
        """Has a HOST copy of all that is filled, reported by every stage."""
        if block_id in self._table.host.valid:
            return True
        self._table.block(block_id)  # it must exist
        return False

    def count_on_host(self, block_ids: Sequence[int]) -> int:
        """How many of these blocks, from the first on, are ``is_on_host``."""
        return self._table.host.count_valid(block_ids)

    def tier_of(self, block_id: int) -> Tier | None:
        """The fastest tier with a valid copy (DEVICE also for a new block); None if it is lost."""
        block = self._table.block(block_id)
        if block_id in self._table.device.slots:
            return DEVICE
        return next((tier for tier in (HOST, NVME) if self._table.has_copy(block, tier)), None)

    def device_slots(self, block_ids: Sequence[int]) -> bytes:
        """The blocks' DEVICE slots as int32, for one ``ScheduledRequest``; counts as their use.

        Raises InvariantError if one of them is not on the device.
        """
        try:
            slots = pack_int32(self._table.device.slots_of(block_ids))
        except KeyError as error:
            raise InvariantError(
                f"block {error.args[0]} is read by a message but not on the device; load it first"
            ) from None
        if self.has_host_tier and block_ids:  # without one, blocks in use are never evicted
            self._table.device.droppable.touch(block_ids)
        return slots

    # --- orders

    def order_store(self, block_ids: Sequence[int]) -> CopyJob | None:
        """DEVICE->HOST of the blocks without a valid HOST copy and none on its way. A block that
        has lost its HOST reservation takes a slot if there is one, and is left out otherwise."""
        return self._orders.store(block_ids) if self.has_host_tier else None

    def close_message(self) -> list[int]:
        """The message that was composed is sent: its stores count from now on, and the DEVICE slots
        they read can be had by later messages. Returns the blocks with a HOST copy by it."""
        return self._orders.settle_stores()

    def order_load(
        self, block_ids: Sequence[int], protected: Collection[int] = ()
    ) -> CopyJob | None:
        """HOST->DEVICE of the blocks not on the device, which are on it from this order on.

        None if there is nothing to load or not enough room (and then nothing changed). Raises
        InvariantError for a block without a valid HOST copy.
        """
        return self._orders.load(block_ids, _as_set(protected))

    def order_demote(self, block_ids: Sequence[int]) -> CopyJob | None:
        """HOST->NVME. Once reported, the HOST slot is given up; a DEVICE copy stays, evictable.

        None if there is nothing to copy or not enough room. Raises InvariantError for a block
        without a valid HOST copy.
        """
        return self._orders.demote(block_ids)

    def order_promote(self, block_ids: Sequence[int]) -> CopyJob | None:
        """NVME->HOST of the blocks without a HOST copy and none on its way; loadable, and gone from
        NVME, once reported. None if there is nothing to copy or not enough room. Raises
        InvariantError for a block whose content is lost."""
        return self._orders.promote(block_ids)

    def drop_device(self, block_ids: Sequence[int]) -> None:
        """Evict these blocks from the device. Raises InvariantError, with nothing changed, if one
        has no other valid copy."""
        self._orders.drop_device(block_ids)

    # --- completion

    def update_from_report(self, stage: int, results: Sequence[CopyResult]) -> list[CompletedCopy]:
        """Take one stage's results; returns the copies that all stages have now reported.

        Content that a failed load or promote has lost is invalidated here.
        """
        return self._orders.report(stage, results)

    def invalidate(self, block_ids: Iterable[int]) -> None:
        """The content of these blocks is lost: they leave the prefix index and every tier. Holders
        free them and recompute into new blocks. Blocks that are gone are ignored."""
        for block_id in block_ids:
            block = self._table.blocks.get(block_id)
            if block is not None:
                self._table.lose(block)

    # --- state

    @property
    def num_pending_copies(self) -> int:
        return len(self._pending)

    @property
    def is_idle(self) -> bool:
        """Nobody holds a block and no copy is in flight."""
        return not self._pending and len(self._table.blocks) == len(self._table.cached)

    def occupancy(self) -> dict[Tier, TierOccupancy]:
        return {tier: derive_occupancy(self._table, tier) for tier in TIERS}

    def check_integrity(self) -> None:
        """Raise InvariantError if the table contradicts itself. O(all blocks and slots)."""
        integrity.check_integrity(self._table, self._pending)


def _as_set(protected: Collection[int]) -> Collection[int]:
    if isinstance(protected, Set | Mapping) or not protected:
        return protected
    return frozenset(protected)
