"""Orders copies between neighbouring tiers; what becomes of them is ``copy_completion``'s.

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
from pipemax_worker.kvcache.copies import CompletedCopy, PendingCopies
from pipemax_worker.kvcache.copy_completion import CopyCompletion
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
        self._completion = CopyCompletion(table, pending)
        self._stores_of_message: list[int] = []

    def store(self, block_ids: Sequence[int]) -> CopyJob | None:
        table, stored = self._table, []
        protected = frozenset(block_ids)
        for block in table.distinct(block_ids):
            if block.block_id not in table.device.slots:
                if not table.has_backup(block.block_id):
                    raise InvariantError(
                        f"block {block.block_id} cannot be stored: its content is lost; recompute"
                    )
            elif self._needs_store(block) and self._has_host_slot(block, protected):
                table.host.incoming[block.block_id] = block.version
                stored.append(block)
        job = self._order(DEVICE, HOST, stored)
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
                self._table.device.pool.unpin(job_id)
                copy.is_settled = True
                settled += self._completion.settle(copy)
        self._stores_of_message.clear()
        return settled

    def _needs_store(self, block: Block) -> bool:
        host = self._table.host
        return (
            block.version > 0
            and block.block_id not in host.valid
            and host.incoming.get(block.block_id) != block.version
        )

    def _has_host_slot(self, block: Block, protected: Container[int]) -> bool:
        if block.block_id not in self._table.host.slots:
            slots = self._table.take_slots(HOST, 1, protected)
            if slots is None:
                return False
            self._table.give_slot(block, HOST, slots[0])
        return True

    def load(self, block_ids: Sequence[int], protected: Container[int]) -> CopyJob | None:
        table = self._table
        missing = block_ids if self._are_missing(block_ids) else self._missing(block_ids)
        if len(missing) < len(block_ids):  # some are there: making room must not drop them
            protected = any_of(protected, frozenset(block_ids))
        slots = table.take_slots(DEVICE, len(missing), protected)
        if slots is None or not missing:
            return None
        table.load_all(missing, slots)
        source_slots = table.host.slots_of(missing)
        return self._follow(HOST, DEVICE, missing, (), source_slots, slots)

    def _are_missing(self, block_ids: Sequence[int]) -> bool:
        """Whether ``_missing`` of these blocks is all of them: so it is in rotation."""
        return (
            self._table.host.valid.issuperset(block_ids)
            and self._table.device.slots.keys().isdisjoint(block_ids)
            and len(frozenset(block_ids)) == len(block_ids)
        )

    def _missing(self, block_ids: Iterable[int]) -> list[int]:
        """Those to load, each once. Raises InvariantError if one cannot be."""
        missing = []
        for block in self._table.distinct(block_ids):
            if block.block_id in self._table.device.slots:
                continue
            if block.block_id not in self._table.host.valid:
                raise InvariantError(
                    f"block {block.block_id} cannot be loaded: no reported HOST copy of its "
                    "content; promote it and wait for the report, or recompute it"
                )
            missing.append(block.block_id)
        return missing

    def demote(self, block_ids: Sequence[int]) -> CopyJob | None:
        table, host, nvme = self._table, self._table.host, self._table.nvme
        blocks, present = [], []
        for block in table.distinct(block_ids):
            if block.block_id in nvme.valid:
                present.append(block)
            elif block.block_id not in host.valid:
                raise InvariantError(
                    f"block {block.block_id} cannot be demoted: no reported HOST copy of its "
                    "content; store it and wait for the report"
                )
            elif block.block_id not in nvme.incoming:
                blocks.append(block)
        if not self._nvme_writes.take(len(blocks)):
            return None
        slots = table.take_slots(NVME, len(blocks), frozenset(block_ids))
        if slots is None:
            self._nvme_writes.give_back(len(blocks))
            return None
        for block in present:
            if block.block_id in host.valid:
                table.release_slot(block, HOST)
        for block, slot in zip(blocks, slots, strict=True):
            table.give_slot(block, NVME, slot)
            nvme.incoming[block.block_id] = block.version
        return self._order(HOST, NVME, blocks)

    def promote(self, block_ids: Sequence[int]) -> CopyJob | None:
        table, host = self._table, self._table.host
        blocks = []
        for block in table.distinct(block_ids):
            if not table.has_any_copy(block):
                raise InvariantError(
                    f"block {block.block_id} cannot be promoted: its content is lost; recompute it"
                )
            is_coming = host.incoming.get(block.block_id) == block.version
            is_below = block.block_id in table.nvme.valid and block.block_id not in host.valid
            if is_below and not is_coming:
                blocks.append(block)
        slots = table.take_slots(HOST, len(blocks), frozenset(block_ids))
        if slots is None:
            return None
        for block, slot in zip(blocks, slots, strict=True):
            table.release_slot(block, HOST)  # a reservation that a failed store left void
            table.give_slot(block, HOST, slot)
            host.incoming[block.block_id] = block.version
        return self._order(NVME, HOST, blocks)

    def drop_device(self, block_ids: Sequence[int]) -> None:
        """Evict these blocks; raises InvariantError, with nothing changed, if one has no other
        valid copy."""
        table = self._table
        if not table.host.valid.issuperset(block_ids):
            for block in table.distinct(block_ids):
                block_id = block.block_id
                if block_id in table.device.slots and not table.has_backup(block_id):
                    raise InvariantError(
                        f"block {block_id} cannot leave the device: no other valid copy; "
                        "store it and wait for the report"
                    )
        table.unload_all(block_ids)

    def _order(self, source: Tier, target: Tier, blocks: Sequence[Block]) -> CopyJob | None:
        """A copy down, or up to HOST."""
        if not blocks:
            return None
        block_ids = [block.block_id for block in blocks]
        return self._follow(
            source,
            target,
            block_ids,
            [block.version for block in blocks],
            self._table.tiers[source].slots_of(block_ids),
            self._table.tiers[target].slots_of(block_ids),
        )

    def _follow(
        self,
        source: Tier,
        target: Tier,
        block_ids: Sequence[int],
        versions: Sequence[int],
        source_slots: Sequence[int],
        target_slots: Sequence[int],
    ) -> CopyJob:
        """The copy is awaited; what it pins now is not droppable."""
        job = self._pending.add(source, target, block_ids, versions, source_slots, target_slots)
        self._table.tiers[source].pool.pin(job.job_id, source_slots)
        if target is not DEVICE:
            self._table.tiers[target].pool.pin(job.job_id, target_slots)
        for block in self._table.listed(block_ids):
            self._table.refresh(block, source)
            self._table.refresh(block, target)
        return job

    def report(self, stage: int, results: Iterable[CopyResult]) -> list[CompletedCopy]:
        """Take one stage's results; returns the copies that all stages have now reported."""
        return self._completion.report(stage, results)
