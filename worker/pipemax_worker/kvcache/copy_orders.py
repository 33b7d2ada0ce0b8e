"""Orders copies between neighbouring tiers and applies what becomes of them.

What keeps every read right, on every stage, in the order of the messages:
- the bytes a copy reads or writes are pinned until all stages have reported it, but for the DEVICE
  slot that a load fills: later loads queue behind it and later forwards wait for it;
- a copy counts from its report on, but for that same load, which counts when it is ordered;
- a store counts, and its DEVICE slot may be reused, as soon as its message is closed: every stage
  carries out copies that touch the same slot in the order of the messages, and a forward waits for
  the stores that still read what it overwrites. Memory does not fail the way a disk does, so there
  is nothing in the report to wait for (decision 0005);
- it counts only if the block still has that slot and that version of its content.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.transfers import CopyJob, CopyResult
from pipemax_worker.errors import InvariantError
from pipemax_worker.kvcache.block import DEVICE, HOST, NVME, Block
from pipemax_worker.kvcache.block_table import BlockTable
from pipemax_worker.kvcache.copies import CompletedCopy, PendingCopies, PendingCopy
from pipemax_worker.kvcache.eviction import any_of
from pipemax_worker.kvcache.write_allowance import WriteAllowance


class CopyOrders:
    """The four copies; each returns the job, or None if there is nothing to do or no room."""

    def __init__(
        self, table: BlockTable, pending: PendingCopies, nvme_writes: WriteAllowance
    ) -> None:
        self._table = table
        self._nvme_writes = nvme_writes
        self._pending = pending
        self._stores_of_message: list[int] = []

    def store(self, block_ids: Sequence[int]) -> CopyJob | None:
        blocks = []
        protected = frozenset(block_ids)
        for block in self._table.distinct(block_ids):
            if block.slots[DEVICE] is None:
                if not block.has_backup():
                    raise InvariantError(
                        f"block {block.block_id} cannot be stored: its content is lost; recompute"
                    )
            elif self._needs_store(block) and self._has_host_slot(block, protected):
                block.incoming[HOST] = block.version
                blocks.append(block)
        job = self._order(DEVICE, HOST, blocks)
        if job is not None:
            self._stores_of_message.append(job.job_id)
        return job

    def settle_stores(self) -> list[int]:
        """The message that ordered these stores is closed: from the next one on they count.
        Returns the blocks that have a HOST copy by it."""
        settled: list[int] = []
        for job_id in self._stores_of_message:
            copy = self._pending.get(job_id)
            if copy is not None:
                self._table.pools[DEVICE].unpin(copy.source_slots)
                copy.is_settled = True
                settled += self._settle(copy)
        self._stores_of_message.clear()
        return settled

    def _settle(self, copy: PendingCopy) -> list[int]:
        settled = []
        for position, block_id in enumerate(copy.block_ids):
            block = self._table.blocks.get(block_id)
            if block is None:
                continue
            if block.slots[HOST] == copy.target_slots[position]:
                self._take_version(block, HOST, copy.versions[position])
                settled.append(block_id)
            self._table.refresh_all(block)
        return settled

    @staticmethod
    def _take_version(block: Block, tier: Tier, version: int) -> None:
        block.copies[tier] = max(block.copies[tier], version)
        if block.incoming[tier] == version:
            block.incoming[tier] = 0

    def _needs_store(self, block: Block) -> bool:
        return (
            block.version > 0 and not block.has_copy(HOST) and block.incoming[HOST] != block.version
        )

    def _has_host_slot(self, block: Block, protected: Container[int]) -> bool:
        if block.slots[HOST] is None:
            slots = self._table.take_slots(HOST, 1, protected)
            if slots is None:
                return False
            self._table.give_slot(block, HOST, slots[0])
        return True

    def load(self, block_ids: Sequence[int], protected: Container[int]) -> CopyJob | None:
        blocks = [b for b in self._table.distinct(block_ids) if b.slots[0] is None]
        for block in blocks:
            if block.copies[1] != block.version or not block.version:
                raise InvariantError(
                    f"block {block.block_id} cannot be loaded: no reported HOST copy of its "
                    "content; promote it and wait for the report, or recompute it"
                )
        if len(blocks) < len(block_ids):  # some are there: making room must not drop them
            protected = any_of(protected, frozenset(block_ids))
        slots = self._table.take_slots(DEVICE, len(blocks), protected)
        if slots is None:
            return None
        source_slots = [slot for b in blocks if (slot := b.slots[1]) is not None]
        self._table.load_all(blocks, slots)
        if not blocks:
            return None
        self._table.pools[HOST].pin(source_slots)
        return self._follow(HOST, DEVICE, blocks, source_slots, slots)

    def demote(self, block_ids: Sequence[int]) -> CopyJob | None:
        blocks, present = [], []
        for block in self._table.distinct(block_ids):
            if block.has_copy(NVME):
                present.append(block)
            elif not block.has_copy(HOST):
                raise InvariantError(
                    f"block {block.block_id} cannot be demoted: no reported HOST copy of its "
                    "content; store it and wait for the report"
                )
            elif not block.incoming[NVME]:
                blocks.append(block)
        if not self._nvme_writes.take(len(blocks)):
            return None
        slots = self._table.take_slots(NVME, len(blocks), frozenset(block_ids))
        if slots is None:
            self._nvme_writes.give_back(len(blocks))
            return None
        for block in present:
            if block.has_copy(HOST):
                self._table.release_slot(block, HOST)
        for block, slot in zip(blocks, slots, strict=True):
            self._table.give_slot(block, NVME, slot)
            block.incoming[NVME] = block.version
        return self._order(HOST, NVME, blocks)

    def promote(self, block_ids: Sequence[int]) -> CopyJob | None:
        blocks = []
        for block in self._table.distinct(block_ids):
            if not block.has_any_copy():
                raise InvariantError(
                    f"block {block.block_id} cannot be promoted: its content is lost; recompute it"
                )
            is_coming = block.incoming[HOST] == block.version
            if block.has_copy(NVME) and not block.has_copy(HOST) and not is_coming:
                blocks.append(block)
        slots = self._table.take_slots(HOST, len(blocks), frozenset(block_ids))
        if slots is None:
            return None
        for block, slot in zip(blocks, slots, strict=True):
            self._table.release_slot(block, HOST)  # a reservation that a failed store left void
            self._table.give_slot(block, HOST, slot)
            block.incoming[HOST] = block.version
        return self._order(NVME, HOST, blocks)

    def _order(self, source: Tier, target: Tier, blocks: Sequence[Block]) -> CopyJob | None:
        if not blocks:
            return None
        place, aim = int(source), int(target)  # neither is DEVICE as a target: see ``load``
        source_slots = [slot for b in blocks if (slot := b.slots[place]) is not None]
        target_slots = [slot for b in blocks if (slot := b.slots[aim]) is not None]
        self._table.pools[source].pin(source_slots)
        self._table.pools[target].pin(target_slots)
        return self._follow(source, target, blocks, source_slots, target_slots)

    def _follow(
        self,
        source: Tier,
        target: Tier,
        blocks: Sequence[Block],
        source_slots: Sequence[int],
        target_slots: Sequence[int],
    ) -> CopyJob:
        """What is pinned now is not droppable, and the copy is awaited."""
        for block in self._listed(blocks):
            self._table.refresh(block, source)
            self._table.refresh(block, target)
        return self._pending.add(
            source,
            target,
            [block.block_id for block in blocks],
            [block.version for block in blocks],
            source_slots,
            target_slots,
        )

    def _listed(self, blocks: Iterable[Block]) -> list[Block]:
        """Those that ``droppable`` may name. Blocks in use are most, so they are left out first."""
        if self._table.takes_referenced:
            return list(blocks)
        return [block for block in blocks if not block.ref_count]

    # --- completion

    def report(self, stage: int, results: Iterable[CopyResult]) -> list[CompletedCopy]:
        completed = []
        for result in results:
            copy = self._pending.report(stage, result)
            if copy is not None:
                completed.append(copy.completed(self._complete(copy)))
        return completed

    def _complete(self, copy: PendingCopy) -> list[int]:
        """Unpin, and apply the copy to the blocks that still are what was copied; returns the ids
        of blocks whose content is lost."""
        if not copy.is_settled:
            self._table.pools[copy.source].unpin(copy.source_slots)
        if copy.target is not DEVICE:
            self._table.pools[copy.target].unpin(copy.target_slots)
        if copy.target is DEVICE and not copy.failed:
            self._list_loaded(copy)
            return []
        lost_block_ids = []
        for position, block_id in enumerate(copy.block_ids):
            block = self._table.blocks.get(block_id)
            if block is None:
                continue
            if position not in copy.failed:
                self._land(block, copy, position)
            elif self._fail(block, copy, position):
                lost_block_ids.append(block_id)
                self._table.lose(block)
        return lost_block_ids

    def _list_loaded(self, copy: PendingCopy) -> None:
        """Blocks that nobody uses any more can be dropped from HOST again."""
        if not self._table.num_cached_blocks:
            return
        get = self._table.blocks.get
        for block in [b for i in copy.block_ids if (b := get(i)) is not None and not b.ref_count]:
            self._table.refresh(block, HOST)

    def _land(self, block: Block, copy: PendingCopy, position: int) -> None:
        target, version = copy.target, copy.versions[position]
        if target is DEVICE:
            self._table.refresh(block, HOST)
            return
        if block.slots[target] == copy.target_slots[position]:
            if not copy.is_settled:
                self._take_version(block, target, version)
            is_moved = copy.source is not DEVICE and not block.num_parked_refs
            if is_moved and block.slots[copy.source] == copy.source_slots[position]:
                self._table.release_slot(block, copy.source)  # moved, not doubled
        self._table.refresh_all(block)

    def _fail(self, block: Block, copy: PendingCopy, position: int) -> bool:
        """Whether the content is lost: a load brought bad bytes, the only copy is unreadable, or a
        settled store failed, after which nobody knows who has read what it left."""
        source, target = copy.source, copy.target
        if target is DEVICE or copy.is_settled:
            return True
        if block.slots[target] == copy.target_slots[position]:
            if block.incoming[target] == copy.versions[position]:
                block.incoming[target] = 0
            if source is not DEVICE:
                self._table.release_slot(block, target)
        if source is NVME and block.slots[NVME] == copy.source_slots[position]:
            self._table.release_slot(block, NVME)
        self._table.refresh_all(block)
        return not block.has_any_copy()
