"""Applies copies to the blocks that were copied: stores when their message is closed, the others
when all stages have reported them. The rules are those of ``copy_orders``."""

from __future__ import annotations

from collections.abc import Iterable

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.transfers import CopyResult
from pipemax_worker.kvcache.block import DEVICE, HOST, NVME, Block
from pipemax_worker.kvcache.block_table import BlockTable
from pipemax_worker.kvcache.copies import CompletedCopy, PendingCopies, PendingCopy


class CopyCompletion:
    """Of one table. A copy counts only for blocks that still have its slot and its content."""

    def __init__(self, table: BlockTable, pending: PendingCopies) -> None:
        self._table = table
        self._pending = pending

    # --- stores

    def settle(self, copy: PendingCopy) -> list[int]:
        """A store counts from now on; returns the blocks that have a HOST copy by it."""
        table, host_slots = self._table, self._table.host.slots
        settled = []
        columns = zip(copy.block_ids, copy.target_slots, copy.versions, strict=True)
        for block_id, slot, version in columns:
            if host_slots.get(block_id) == slot:
                self._take_version(table.blocks[block_id], HOST, version)
                settled.append(block_id)
        self._refresh(copy)
        return settled

    def _refresh(self, copy: PendingCopy) -> None:
        """What the copy had pinned may be dropped again."""
        for block in self._table.listed(copy.block_ids):
            self._table.refresh_all(block)

    def _take_version(self, block: Block, tier: Tier, version: int) -> None:
        places = self._table.tiers[tier]
        if block.version == version:
            places.valid.add(block.block_id)
        if places.incoming.get(block.block_id) == version:
            del places.incoming[block.block_id]

    # --- reports

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
            self._table.tiers[copy.source].pool.unpin(copy.job_id)
        if copy.target is not DEVICE:
            self._table.tiers[copy.target].pool.unpin(copy.job_id)
        if not copy.failed and (copy.target is DEVICE or copy.is_settled):
            self._refresh(copy)  # it has counted for long
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

    def _land(self, block: Block, copy: PendingCopy, position: int) -> None:
        target = copy.target
        if target is DEVICE:
            self._table.refresh(block, HOST)
            return
        if self._table.tiers[target].slots.get(block.block_id) == copy.target_slots[position]:
            if not copy.is_settled:
                self._take_version(block, target, copy.versions[position])
            is_moved = copy.source is not DEVICE and not block.num_parked_refs
            if is_moved and self._is_at_source(block, copy, position):
                self._table.release_slot(block, copy.source)  # moved, not doubled
        self._table.refresh_all(block)

    def _is_at_source(self, block: Block, copy: PendingCopy, position: int) -> bool:
        slots = self._table.tiers[copy.source].slots
        return slots.get(block.block_id) == copy.source_slots[position]

    def _fail(self, block: Block, copy: PendingCopy, position: int) -> bool:
        """Whether the content is lost: a load brought bad bytes, the only copy is unreadable, or a
        settled store failed, after which nobody knows who has read what it left."""
        source, target = copy.source, copy.target
        if target is DEVICE or copy.is_settled:
            return True
        places = self._table.tiers[target]
        if places.slots.get(block.block_id) == copy.target_slots[position]:
            if places.incoming.get(block.block_id) == copy.versions[position]:
                del places.incoming[block.block_id]
            if source is not DEVICE:
                self._table.release_slot(block, target)
        if source is NVME and self._is_at_source(block, copy, position):
            self._table.release_slot(block, NVME)
        self._table.refresh_all(block)
        return not self._table.has_any_copy(block)
