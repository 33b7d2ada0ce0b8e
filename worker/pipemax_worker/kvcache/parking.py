"""Blocks whose KV lies on NVME since an earlier run, until their requests come for them.

A stop leaves the KV of unfinished requests in slots of the NVME tier; a later run *adopts* these
slots when it starts, before any request is there to hold them. Until a request *claims* its blocks
the references are *parked* ones. They follow two rules, by ``BlockTable`` and ``CopyOrders``:

- while a block has parked references its NVME copy stays, also after it was promoted for somebody;
- once nobody else holds it, its DEVICE and HOST slots are given back.

So what was adopted and is not claimed yet never takes room that running requests need.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from pipemax_worker.contract.geometry import num_blocks_for
from pipemax_worker.errors import InvariantError
from pipemax_worker.kvcache.block import NVME, Block
from pipemax_worker.kvcache.block_table import BlockTable


class ParkedKV(msgspec.Struct, frozen=True):
    """One request's KV on NVME: ``num_tokens`` positions, one slot a block in order, the last of
    them perhaps partly filled. Requests with the same head name the same slots."""

    nvme_slots: tuple[int, ...]
    num_tokens: int


def find_fault(parked: Iterable[ParkedKV], num_nvme_slots: int, block_tokens: int) -> str | None:
    """Why these slots cannot be adopted together; None if they can. Pure."""
    places: dict[int, tuple[int, int]] = {}
    for one in parked:
        if len(one.nvme_slots) != num_blocks_for(one.num_tokens, block_tokens):
            return f"{one.num_tokens} tokens in {len(one.nvme_slots)} slots of {block_tokens}"
        for index, slot in enumerate(one.nvme_slots):
            place = (index, _num_filled(one, index, block_tokens))
            if not 0 <= slot < num_nvme_slots:
                return f"slot {slot} of a tier of {num_nvme_slots}"
            known = places.setdefault(slot, place)
            if known is not place and (known != place or place[1] != block_tokens):
                return f"slot {slot} belongs to two requests and is not a full block of one head"
    return None


def _num_filled(parked: ParkedKV, index: int, block_tokens: int) -> int:
    return min(block_tokens, parked.num_tokens - index * block_tokens)


class ParkedBlocks:
    """The parked references of one table, and what an export needs to know of it."""

    def __init__(self, table: BlockTable) -> None:
        self._table = table
        self._block_ids: dict[int, int] = {}

    def __len__(self) -> int:
        """Blocks with parked references."""
        return len(self._block_ids)

    # --- in

    def adopt(self, parked: Sequence[ParkedKV], block_tokens: int) -> None:
        """Take these slots into the table, one block a slot with one parked reference a request.

        Call it once, on a fresh table. Raises InvariantError for what ``find_fault`` refuses.
        """
        table = self._table
        fault = find_fault(parked, table.nvme.pool.num_slots, block_tokens)
        if fault is not None or table.blocks:
            raise InvariantError(f"parked KV cannot be adopted: {fault or 'blocks are there'}")
        slots = dict.fromkeys(slot for one in parked for slot in one.nvme_slots)
        table.nvme.pool.take(slots)
        for one in parked:
            for index, slot in enumerate(one.nvme_slots):
                block_id = self._block_ids.get(slot)
                if block_id is None:
                    block = self._add_block(slot, _num_filled(one, index, block_tokens))
                else:
                    block = table.block(block_id)
                    table.reference(block)
                block.num_parked_refs += 1

    def _add_block(self, slot: int, num_tokens: int) -> Block:
        block = self._table.add_block()
        block.num_tokens, block.version = num_tokens, 1
        self._table.give_slot(block, NVME, slot)
        self._table.nvme.valid.add(block.block_id)
        self._block_ids[slot] = block.block_id
        return block

    # --- to their requests

    def claim(self, nvme_slots: Sequence[int]) -> list[int]:
        """The request that these slots belong to has come: the parked references are its own now.

        Returns its blocks from the head on, up to the first that was lost since; what follows
        that one is given up. Empty for slots that were never adopted, or claimed before.
        """
        num_valid = self.num_valid(nvme_slots)
        claimed = [self._unpark(slot) for slot in nvme_slots[:num_valid]]
        self.release(nvme_slots[num_valid:])
        return [block.block_id for block in claimed]

    def release(self, nvme_slots: Iterable[int]) -> None:
        """The request that these slots belong to does not come, or not for them."""
        for slot in nvme_slots:
            if slot in self._block_ids:
                self._table.dereference(self._unpark(slot))

    def _unpark(self, slot: int) -> Block:
        block = self._table.block(self._block_ids[slot])
        block.num_parked_refs -= 1
        if block.num_parked_refs == 0:
            del self._block_ids[slot]
            if block.block_id in self._table.host.valid:
                self._table.release_slot(block, NVME)  # moved, not doubled, as ever
        return block

    # --- out

    def num_valid(self, nvme_slots: Sequence[int]) -> int:
        """How many of a request's unclaimed blocks still have their content, from the head on."""
        for index, slot in enumerate(nvme_slots):
            block_id = self._block_ids.get(slot)
            if block_id is None or block_id not in self._table.nvme.valid:
                return index
        return len(nvme_slots)

    def nvme_slots(self, block_ids: Sequence[int]) -> tuple[int, ...]:
        """Slots of the leading blocks that have a reported copy of their content on NVME."""
        nvme = self._table.nvme
        return nvme.slots_of(block_ids[: nvme.count_valid(block_ids)])
