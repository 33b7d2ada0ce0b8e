"""Checks the whole block table against itself. For tests and idle points, not for every step."""

from __future__ import annotations

from collections import Counter

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.errors import InvariantError
from pipemax_worker.kvcache.block import DEVICE, HOST, TIERS, Block
from pipemax_worker.kvcache.block_table import BlockTable
from pipemax_worker.kvcache.copies import PendingCopies


def check_integrity(table: BlockTable, pending: PendingCopies) -> None:
    """Raise InvariantError naming the first broken invariant. O(all blocks and slots)."""
    for block in table.blocks.values():
        _check_block(table, block)
    for tier in TIERS:
        _check_slots(table, tier)
        _check_pins(table, pending, tier)
        _check_droppable(table, tier)
    _check_device_index(table)
    _check_prefix_index(table)
    cached = sum(block.ref_count == 0 for block in table.blocks.values())
    _require(cached == table.num_cached_blocks, f"{cached} cached blocks counted as another number")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InvariantError(f"KV block table: {message}")


def _check_block(table: BlockTable, block: Block) -> None:
    name = f"block {block.block_id}"
    _require(block.ref_count >= 0, f"{name} has {block.ref_count} references")
    _require(
        0 <= block.num_parked_refs <= block.ref_count,
        f"{name} has {block.num_parked_refs} parked references of {block.ref_count}",
    )
    if block.ref_count and block.num_parked_refs == block.ref_count:
        is_apart = block.slots[DEVICE] is None and block.slots[HOST] is None
        _require(is_apart, f"{name} is parked but takes room above NVME")
    _require((block.version == 0) == (block.num_tokens == 0), f"{name}: version without tokens")
    for tier in TIERS:
        has_content = block.copies[tier] or block.incoming[tier]
        _require(
            block.slots[tier] is not None or not has_content,
            f"{name} has content on {tier.name} without a slot",
        )
        _require(
            max(block.copies[tier], block.incoming[tier]) <= block.version,
            f"{name} on {tier.name} is ahead of its content",
        )
    if block.ref_count == 0:
        is_findable = block.block_hash is not None and block.has_any_copy()
        _require(is_findable, f"{name} is cached but cannot be found or has no valid copy")
    if block.version:
        _require(block.has_any_copy(), f"{name} is filled but has no valid copy")


def _check_slots(table: BlockTable, tier: Tier) -> None:
    pool = table.pools[tier]
    owned = [s for b in table.blocks.values() if (s := b.slots[tier]) is not None]
    owners = Counter([*owned, *pool.free_slots, *pool.draining_slots])
    shared = [slot for slot, count in owners.items() if count > 1]
    _require(not shared, f"{tier.name} slots {shared} have more than one owner")
    _require(
        owners.keys() == set(range(pool.num_slots)),
        f"{tier.name}: used + free is {len(owners)} of {pool.num_slots} slots",
    )
    cached = sum(b.ref_count == 0 and b.slots[tier] is not None for b in table.blocks.values())
    _require(
        cached == table.num_cached_slots[tier],
        f"{tier.name}: {cached} cached slots, counted as {table.num_cached_slots[tier]}",
    )


def _check_pins(table: BlockTable, pending: PendingCopies, tier: Tier) -> None:
    expected: Counter[int] = Counter()
    for copy in pending.values():
        if copy.source is tier and not copy.is_settled:
            expected.update(copy.source_slots)
        if copy.target is tier and tier is not DEVICE:
            expected.update(copy.target_slots)
    pool = table.pools[tier]
    _require(pool.pins == expected, f"{tier.name}: pins {pool.pins}, in flight {dict(expected)}")
    _require(
        pool.draining_slots <= expected.keys(),
        f"{tier.name}: slots {sorted(pool.draining_slots)} wait for copies that are over",
    )


def _check_droppable(table: BlockTable, tier: Tier) -> None:
    policy = table.droppable[tier]
    for block in table.blocks.values():
        _require(
            (block.block_id in policy) == table.is_droppable(block, tier),
            f"block {block.block_id} is listed wrongly as droppable or not on {tier.name}",
        )
    expected = sum(table.is_droppable(block, tier) for block in table.blocks.values())
    _require(len(policy) == expected, f"{tier.name} lists blocks that are gone as droppable")


def _check_device_index(table: BlockTable) -> None:
    on_device = {b.block_id for b in table.blocks.values() if b.slots[DEVICE] is not None}
    _require(table.device_slots.keys() == on_device, "the device slots of messages are stale")
    _require(table.off_device == table.blocks.keys() - on_device, "the missing blocks are stale")


def _check_prefix_index(table: BlockTable) -> None:
    hashed = {b.block_hash: b.block_id for b in table.blocks.values() if b.block_hash is not None}
    _require(dict(table.prefix_index) == hashed, "the prefix index and the blocks disagree")
    _require(
        len(hashed) == sum(b.block_hash is not None for b in table.blocks.values()),
        "two blocks have the same hash",
    )
