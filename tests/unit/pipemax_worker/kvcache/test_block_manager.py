"""Life, content and places of blocks: everything but the copies."""

from __future__ import annotations

import pytest
from kit.kv_blocks import allocate, fill, fill_and_store, land, make_manager, park
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.transfers import unpack_int32
from pipemax_worker.errors import InvariantError
from pipemax_worker.kvcache.block_manager import BlockManager
from pipemax_worker.kvcache.occupancy import TierOccupancy


def cache(manager: BlockManager, *hashes: bytes, is_stored: bool = False) -> list[int]:
    """Cached blocks, indexed under ``hashes`` and referenced by nobody."""
    block_ids = (fill_and_store if is_stored else fill)(manager, len(hashes))
    for block_id, block_hash in zip(block_ids, hashes, strict=True):
        manager.commit_hash(block_id, block_hash)
    manager.free(block_ids)
    return block_ids


# --- allocate


def test_a_new_block_has_a_device_slot_and_a_host_reservation() -> None:
    manager = make_manager(device=3, host=4)
    block_ids = allocate(manager, 2)
    assert len(set(block_ids)) == 2
    assert manager.num_free_device_slots == 1
    assert manager.num_free_host_slots == 2
    assert all(map(manager.is_on_device, block_ids))
    assert not any(map(manager.is_on_host, block_ids))
    assert manager.allocate(0) == []


def test_without_a_host_tier_blocks_live_on_the_device_alone() -> None:
    manager = make_manager(device=2)
    assert not manager.has_host_tier
    block_ids = fill(manager, 2)
    assert manager.order_store(block_ids) is None
    assert manager.num_available_device_slots() == 0
    assert manager.allocate(1) is None


@pytest.mark.parametrize(("device", "host"), [(2, 9), (9, 2)])
def test_a_refused_allocation_changes_nothing(device: int, host: int) -> None:
    manager = make_manager(device, host)
    cache(manager, b"a")
    before = manager.occupancy()
    assert manager.allocate(3) is None
    assert manager.occupancy() == before
    assert manager.lookup_prefix([b"a"])


def test_allocation_evicts_stored_blocks_that_are_not_protected() -> None:
    manager = make_manager(device=2, host=8)
    kept, evicted = fill_and_store(manager, 2)
    assert manager.num_available_device_slots() == 2
    assert manager.num_available_device_slots({kept}) == 1
    assert manager.num_available_device_slots([kept, kept, 99]) == 1
    assert manager.allocate(1, protected=[kept, evicted]) is None
    assert manager.allocate(1, protected=[kept]) is not None
    assert manager.missing_on_device([kept, evicted]) == [evicted]
    assert manager.is_on_host(evicted)


def test_allocation_does_not_evict_what_has_no_reported_host_copy() -> None:
    manager = make_manager(device=2, host=8)
    block_ids = fill(manager, 2)
    job = manager.order_store(block_ids)
    assert manager.num_available_device_slots() == 0
    assert manager.allocate(1) is None
    land(manager, job)
    assert manager.num_available_device_slots() == 2
    assert manager.allocate(2) is not None


def test_cached_blocks_are_evicted_before_blocks_in_use() -> None:
    manager = make_manager(device=2, host=8)
    (cached,) = cache(manager, b"a", is_stored=True)
    (used,) = fill_and_store(manager, 1)
    allocate(manager, 1)
    assert manager.is_on_device(used)
    assert not manager.is_on_device(cached)
    assert manager.lookup_prefix([b"a"]) == [cached]


def test_of_blocks_in_use_the_last_read_are_evicted_first() -> None:
    manager = make_manager(device=4, host=8)
    first, second = fill_and_store(manager, 2), fill_and_store(manager, 2)
    manager.device_slots(second)
    manager.device_slots(first)
    allocate(manager, 2)
    assert manager.missing_on_device(first + second) == first


def test_reservations_take_the_host_slots_of_cached_blocks() -> None:
    manager = make_manager(device=4, host=3)
    cached = cache(manager, b"a", b"b", is_stored=True)
    assert (manager.num_free_host_slots, manager.num_available_host_slots) == (1, 3)
    allocate(manager, 2)
    assert manager.lookup_prefix([b"a", b"b"]) == cached  # still on the device
    assert sum(map(manager.is_on_host, cached)) == 1
    allocate(manager, 1)
    assert manager.lookup_prefix([b"a", b"b"]) == [cached[0]]  # the tail goes before the head


# --- references and the prefix cache


def test_a_freed_block_without_a_hash_is_gone() -> None:
    manager = make_manager(device=2, host=2)
    block_ids = fill(manager, 2)
    manager.free(block_ids)
    assert manager.is_idle
    assert manager.num_free_device_slots == manager.num_free_host_slots == 2
    with pytest.raises(InvariantError, match="does not exist"):
        manager.free(block_ids)
    with pytest.raises(InvariantError, match="does not exist"):
        manager.touch(block_ids)


def test_a_freed_block_with_a_hash_is_found_again() -> None:
    manager = make_manager(device=3)
    block_ids = cache(manager, b"a", b"b")
    assert manager.is_idle
    assert manager.occupancy()[Tier.DEVICE] == TierOccupancy(used=0, cached=2, free=1)
    assert manager.lookup_prefix([b"a", b"b", b"c"]) == block_ids
    manager.touch(block_ids)
    assert manager.occupancy()[Tier.DEVICE] == TierOccupancy(used=2, cached=0, free=1)
    assert manager.num_available_device_slots() == 1
    assert not manager.is_idle


def test_a_shared_block_lives_until_its_last_holder_frees_it() -> None:
    manager = make_manager(device=1)
    block_ids = fill(manager, 1)
    manager.touch(block_ids)
    manager.free(block_ids)
    assert manager.is_on_device(block_ids[0])
    manager.free(block_ids)
    assert manager.num_free_device_slots == 1


def test_dropping_the_last_copy_of_a_cached_block_removes_it_from_the_index() -> None:
    manager = make_manager(device=2)
    cache(manager, b"a", b"b")
    allocate(manager, 1)
    assert len(manager.lookup_prefix([b"a", b"b"])) == 1  # the tail went first
    allocate(manager, 1)
    assert manager.lookup_prefix([b"a"]) == []


def test_of_two_blocks_with_one_hash_the_first_stays_indexed() -> None:
    manager = make_manager(device=2)
    first, second = fill(manager, 2)
    manager.commit_hash(first, b"a")
    manager.commit_hash(first, b"a")
    manager.commit_hash(second, b"a")
    manager.free([second])
    assert manager.num_free_device_slots == 1
    assert manager.lookup_prefix([b"a"]) == [first]


def test_an_unfilled_block_and_a_second_hash_are_refused() -> None:
    manager = make_manager(device=2)
    (empty,) = allocate(manager, 1)
    with pytest.raises(InvariantError, match="cannot be indexed"):
        manager.commit_hash(empty, b"a")
    (block_id,) = fill(manager, 1)
    manager.commit_hash(block_id, b"a")
    with pytest.raises(InvariantError, match="another hash"):
        manager.commit_hash(block_id, b"b")


# --- content


@pytest.mark.parametrize("case", ["shared", "indexed", "missing"])
def test_a_block_that_others_may_read_or_that_is_elsewhere_is_not_written(case: str) -> None:
    manager = make_manager(device=2, host=2)
    (block_id,) = fill_and_store(manager, 1, num_tokens=1)
    if case == "shared":
        manager.touch([block_id])
    elif case == "indexed":
        manager.commit_hash(block_id, b"a")
    else:
        manager.drop_device([block_id])
    manager.mark_filled(block_id, 1)  # nothing new
    with pytest.raises(InvariantError, match="cannot be written"):
        manager.mark_filled(block_id, 2)


def test_an_append_voids_the_host_copy() -> None:
    manager = make_manager(device=2, host=2)
    (block_id,) = fill_and_store(manager, 1, num_tokens=1)
    assert manager.is_on_host(block_id)
    manager.mark_filled(block_id, 2)
    assert not manager.is_on_host(block_id)
    assert manager.num_available_device_slots() == 1
    with pytest.raises(InvariantError, match="no other valid copy"):
        manager.drop_device([block_id])


def test_a_block_cut_back_and_refilled_does_not_match_its_old_copy() -> None:
    manager = make_manager(device=1, host=1)
    (block_id,) = fill_and_store(manager, 1, num_tokens=2)
    manager.mark_filled(block_id, 1)
    manager.mark_filled(block_id, 2)
    assert not manager.is_on_host(block_id)


# --- places


def test_device_slots_are_the_blocks_slots_in_order() -> None:
    manager = make_manager(device=5)
    one, two, three = allocate(manager, 3)
    slots = {b: unpack_int32(manager.device_slots([b]))[0] for b in (one, two, three)}
    assert len(set(slots.values())) == 3
    assert unpack_int32(manager.device_slots([three, one])) == [slots[three], slots[one]]
    assert manager.device_slots([]) == b""


@pytest.mark.parametrize("num_others", [0, 1])
def test_reading_a_block_that_is_not_on_the_device_is_a_bug(num_others: int) -> None:
    manager = make_manager(device=2, host=2)
    (block_id,) = fill_and_store(manager, 1)
    others = allocate(manager, num_others)
    manager.drop_device([block_id])
    with pytest.raises(InvariantError, match=f"block {block_id} is read by a message"):
        manager.device_slots([*others, block_id])


def test_the_tier_of_a_block_is_its_fastest() -> None:
    manager = make_manager(device=4, host=4, nvme=4)
    (new,) = allocate(manager, 1)
    (stored,) = fill_and_store(manager, 1)
    (parked,) = park(manager, 1)
    assert manager.tier_of(new) is Tier.DEVICE
    assert manager.tier_of(stored) is Tier.DEVICE
    assert manager.tier_of(parked) is Tier.NVME
    manager.drop_device([stored])
    assert manager.tier_of(stored) is Tier.HOST
    manager.invalidate([stored])
    assert manager.tier_of(stored) is None


def test_drop_device_changes_nothing_if_one_block_has_no_other_copy() -> None:
    manager = make_manager(device=2, host=2)
    stored, unstored = fill_and_store(manager, 1) + fill(manager, 1)
    with pytest.raises(InvariantError, match=f"block {unstored} cannot leave the device"):
        manager.drop_device([stored, unstored])
    assert manager.is_on_device(stored)
    manager.drop_device([stored])
    manager.drop_device([stored])
    assert manager.num_free_device_slots == 1


# --- lost content


def test_an_invalid_block_is_nowhere_and_waits_to_be_freed() -> None:
    manager = make_manager(device=2, host=2)
    (block_id,) = fill_and_store(manager, 1)
    manager.commit_hash(block_id, b"a")
    manager.invalidate([block_id, block_id, 99])
    manager.check_integrity()
    assert manager.lookup_prefix([b"a"]) == []
    assert manager.missing_on_device([block_id]) == [block_id]
    assert manager.num_free_device_slots == manager.num_free_host_slots == 2
    for order in (manager.order_store, manager.order_load, manager.order_promote):
        with pytest.raises(InvariantError, match=f"block {block_id} cannot be"):
            order([block_id])
    manager.free([block_id])
    assert manager.is_idle


def test_an_invalid_cached_block_is_gone() -> None:
    manager = make_manager(device=1)
    block_ids = cache(manager, b"a")
    manager.invalidate(block_ids)
    assert manager.num_free_device_slots == 1
    assert manager.lookup_prefix([b"a"]) == []
    manager.check_integrity()


def test_filling_many_blocks_is_filling_each() -> None:
    manager = make_manager(device=6, host=6)
    plain, stored = fill(manager, 1, 1), fill_and_store(manager, 1, 1)
    manager.mark_all_filled([*plain, *stored], [2, 2])
    assert not manager.is_on_host(stored[0])  # its copy lacks a token now
    manager.check_integrity()
    for block_id in (*plain, *stored):
        assert manager._table.blocks[block_id].num_tokens == 2
    manager.touch(plain)
    with pytest.raises(InvariantError, match="held by 2"):
        manager.mark_all_filled(plain, [3])


def test_blocks_with_a_host_copy_are_counted_from_the_first_on() -> None:
    manager = make_manager(device=6, host=6)
    stored, unstored = fill_and_store(manager, 2), fill(manager, 1)
    assert manager.count_on_host([*stored, *unstored, *stored]) == 2
    assert manager.count_on_host(stored) == 2
    assert manager.count_on_host(unstored) == 0


def test_allocating_for_each_evicts_nothing() -> None:
    manager = make_manager(device=3, host=3)
    cached = fill_and_store(manager, 1)
    manager.commit_hash(cached[0], b"head")
    manager.free(cached)
    assert manager.allocate_each([1, 2]) is None
    assert manager.lookup_prefix([b"head"]) == cached
    assert manager.allocate_each([1, 1]) == [1, 2]
    manager.check_integrity()


def test_freeing_a_block_twice_at_once_is_found() -> None:
    manager = make_manager(device=2)
    (block_id,) = allocate(manager, 1)
    with pytest.raises(InvariantError, match="does not exist"):
        manager.free([block_id, block_id])
    with pytest.raises(InvariantError, match="does not exist"):
        manager.free([block_id])
