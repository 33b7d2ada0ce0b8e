"""Checks the whole block table against itself. For tests and idle points, not for every step."""

from __future__ import annotations

from collections import Counter

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.errors import InvariantError
from pipemax_worker.kvcache.block import DEVICE, TIERS, Block
from pipemax_worker.kvcache.block_table import BlockTable
from pipemax_worker.kvcache.copies import PendingCopies


def check_integrity(table: BlockTable, pending: PendingCopies) -> None:
    """Raise InvariantError naming the first broken invariant. O(all blocks and slots)."""
    for block in table.blocks.values():
        _check_block(table, block)
    for tier in TIERS:
        _check_content(table, tier)
        _check_slots(table, tier)
        _check_pins(table, pending, tier)
        _check_droppable(table, tier)
    _check_prefix_index(table)
    cached = {block.block_id for block in table.blocks.values() if block.ref_count == 0}
    _require(cached == table.cached, "the cached blocks are listed wrongly")


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
        is_apart = not any(block.block_id in p.slots for p in (table.device, table.host))
        _require(is_apart, f"{name} is parked but takes room above NVME")
    _require((block.version == 0) == (block.num_tokens == 0), f"{name}: version without tokens")
    if block.ref_count == 0:
        is_findable = block.block_hash is not None and table.has_any_copy(block)
        _require(is_findable, f"{name} is cached but cannot be found or has no valid copy")
    if block.version:
        _require(table.has_any_copy(block), f"{name} is filled but has no valid copy")


def _check_content(table: BlockTable, tier: Tier) -> None:
    places = table.tiers[tier]
    _require(
        places.slots.keys() <= table.blocks.keys(), f"{tier.name}: slots of blocks that are gone"
    )
    _require(tier is not DEVICE or not places.valid, "DEVICE copies are counted twice")
    for block_id in {*places.valid, *places.incoming}:
        name = f"block {block_id}"
        _require(block_id in places.slots, f"{name} has content on {tier.name} without a slot")
        version = places.incoming.get(block_id, 1)
        is_ahead = version > table.blocks[block_id].version
        _require(not is_ahead, f"{name} on {tier.name} is ahead of its content")


def _check_slots(table: BlockTable, tier: Tier) -> None:
    places, pool = table.tiers[tier], table.tiers[tier].pool
    owners = Counter([*places.slots.values(), *pool.free_slots, *pool.draining_slots])
    shared = [slot for slot, count in owners.items() if count > 1]
    _require(not shared, f"{tier.name} slots {shared} have more than one owner")
    _require(
        owners.keys() == set(range(pool.num_slots)),
        f"{tier.name}: used + free is {len(owners)} of {pool.num_slots} slots",
    )
    num_cached = len(table.cached & places.slots.keys())
    _require(
        num_cached == places.num_cached,
        f"{tier.name}: {num_cached} cached slots, counted as {places.num_cached}",
    )


def _check_pins(table: BlockTable, pending: PendingCopies, tier: Tier) -> None:
    expected: Counter[int] = Counter()
    for copy in pending.values():
        if copy.source is tier and not copy.is_settled:
            expected.update(copy.source_slots)
        if copy.target is tier and tier is not DEVICE:
            expected.update(copy.target_slots)
    pool = table.tiers[tier].pool
    _require(pool.pins == expected, f"{tier.name}: pins {pool.pins}, in flight {dict(expected)}")
    _require(
        pool.draining_slots <= expected.keys(),
        f"{tier.name}: slots {sorted(pool.draining_slots)} wait for copies that are over",
    )


def _check_droppable(table: BlockTable, tier: Tier) -> None:
    policy = table.tiers[tier].droppable
    for block in table.blocks.values():
        _require(
            (block.block_id in policy) == table.is_droppable(block, tier),
            f"block {block.block_id} is listed wrongly as droppable or not on {tier.name}",
        )
    expected = sum(table.is_droppable(block, tier) for block in table.blocks.values())
    _require(len(policy) == expected, f"{tier.name} lists blocks that are gone as droppable")


def _check_prefix_index(table: BlockTable) -> None:
    hashed = {b.block_hash: b.block_id for b in table.blocks.values() if b.block_hash is not None}
    _require(dict(table.prefix_index) == hashed, "the prefix index and the blocks disagree")
    _require(
        len(hashed) == sum(b.block_hash is not None for b in table.blocks.values()),
        "two blocks have the same hash",
    )
