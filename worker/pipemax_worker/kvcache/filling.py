"""New content of blocks on DEVICE, which makes every other copy of them void."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pipemax_worker.errors import InvariantError
from pipemax_worker.kvcache.block import DEVICE, HOST, NVME, Block
from pipemax_worker.kvcache.block_table import BlockTable

_DEVICE: Final = int(DEVICE)  # a list is faster at a plain int


def fill(table: BlockTable, block: Block, num_tokens: int) -> None:
    """New content on DEVICE: every other copy, landed or in flight, is void."""
    if block.slots[DEVICE] is None or block.block_hash is not None or block.ref_count != 1:
        raise InvariantError(
            f"block {block.block_id} cannot be written: it must be on the device, held by one "
            f"request (held by {block.ref_count}) and not in the prefix index"
        )
    block.num_tokens = num_tokens
    block.version += 1
    block.copies[DEVICE] = block.version
    if block.copies[HOST] or block.slots[NVME] is not None:
        _void_backups(table, block)


def fill_all(table: BlockTable, block_ids: Sequence[int], num_tokens: Sequence[int]) -> None:
    """``fill`` each block that does not hold as many tokens yet. Most are a running request's
    last one, which has nothing but its DEVICE slot."""
    blocks = table.blocks
    for block_id, num in zip(block_ids, num_tokens, strict=True):
        block = blocks.get(block_id) or table.block(block_id)
        if num == block.num_tokens:
            continue
        slots, copies = block.slots, block.copies
        is_plain = block.ref_count == 1 and block.block_hash is None and not copies[1]
        if is_plain and slots[_DEVICE] is not None and slots[2] is None:
            block.num_tokens = num
            block.version = copies[_DEVICE] = block.version + 1
        else:
            fill(table, block, num)


def _void_backups(table: BlockTable, block: Block) -> None:
    block.copies[HOST] = 0
    if block.slots[NVME] is not None:
        if block.incoming[HOST]:
            # A promote may land at any time, even after a later store into the same slot.
            table.release_slot(block, HOST)
        table.release_slot(block, NVME)
    table.refresh(block, DEVICE)
