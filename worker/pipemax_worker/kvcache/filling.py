"""New content of blocks on DEVICE, which makes every other copy of them void."""

from __future__ import annotations

from collections.abc import Sequence

from pipemax_worker.errors import InvariantError
from pipemax_worker.kvcache.block import DEVICE, HOST, NVME, Block
from pipemax_worker.kvcache.block_table import BlockTable


def fill(table: BlockTable, block: Block, num_tokens: int) -> None:
    """New content on DEVICE: every other copy, landed or in flight, is void."""
    block_id = block.block_id
    if block_id not in table.device.slots or block.block_hash is not None or block.ref_count != 1:
        raise InvariantError(
            f"block {block_id} cannot be written: it must be on the device, held by one "
            f"request (held by {block.ref_count}) and not in the prefix index"
        )
    block.num_tokens = num_tokens
    block.version += 1
    if block_id in table.host.valid or block_id in table.nvme.slots:
        _void_backups(table, block)


def fill_all(table: BlockTable, block_ids: Sequence[int], num_tokens: Sequence[int]) -> None:
    """``fill`` each block that does not hold as many tokens yet. Most are a running request's
    last one, which has nothing but its DEVICE slot."""
    blocks, on_device, on_host, on_nvme = (
        table.blocks,
        table.device.slots,
        table.host.valid,
        table.nvme.slots,
    )
    for block_id, num in zip(block_ids, num_tokens, strict=True):
        block = blocks.get(block_id) or table.block(block_id)
        if num == block.num_tokens:
            continue
        is_plain = block_id in on_device and block_id not in on_host and block_id not in on_nvme
        if is_plain and block.ref_count == 1 and block.block_hash is None:
            block.num_tokens = num
            block.version += 1
        else:
            fill(table, block, num)


def _void_backups(table: BlockTable, block: Block) -> None:
    table.host.valid.discard(block.block_id)
    if block.block_id in table.nvme.slots:
        if block.block_id in table.host.incoming:
            # A promote may land at any time, even after a later store into the same slot.
            table.release_slot(block, HOST)
        table.release_slot(block, NVME)
    table.refresh(block, DEVICE)
