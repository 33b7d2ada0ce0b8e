"""What the four copies pin, when they count, and what becomes of late and failed ones."""

from __future__ import annotations

import pytest
from kit.kv_blocks import allocate, fill, fill_and_store, land, make_manager, park
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.transfers import CopyResult, unpack_int32
from pipemax_worker.errors import InvariantError
from pipemax_worker.kvcache.block_manager import BlockManager


def slot_of(manager: BlockManager, block_id: int, tier: Tier) -> int | None:
    return manager._table.tiers[tier].slots.get(block_id)


# --- store


def test_a_store_counts_once_all_stages_have_reported_it() -> None:
    manager = make_manager(device=2, host=2)
    block_ids = fill(manager, 2)
    job = manager.order_store(block_ids)
    assert job is not None
    assert (job.source, job.target) == (Tier.DEVICE, Tier.HOST)
    assert unpack_int32(job.source_slots) == unpack_int32(manager.device_slots(block_ids))
    assert manager.order_store(block_ids) is None  # on its way
    assert manager.num_pending_copies == 1
    manager.update_from_report(1, [CopyResult(job.job_id, 1, 0.1)])
    assert not manager.is_on_host(block_ids[0])
    (completed,) = manager.update_from_report(0, [CopyResult(job.job_id, 1, 0.1)])
    assert completed.block_ids == tuple(block_ids)
    assert all(map(manager.is_on_host, block_ids))
    assert manager.order_store(block_ids) is None  # done
    assert manager.num_pending_copies == 0


def test_an_unfilled_block_is_not_stored() -> None:
    manager = make_manager(device=1, host=1)
    assert manager.order_store(allocate(manager, 1)) is None


def test_slots_freed_under_a_store_are_free_when_it_is_reported() -> None:
    manager = make_manager(device=1, host=1)
    block_ids = fill(manager, 1)
    job = manager.order_store(block_ids)
    manager.free(block_ids)
    manager.check_integrity()
    assert manager.num_free_device_slots == manager.num_free_host_slots == 0
    assert manager.allocate(1) is None
    assert not manager.is_idle
    land(manager, job)
    assert manager.num_free_device_slots == manager.num_free_host_slots == 1
    assert manager.is_idle


def test_a_block_appended_to_while_it_is_stored_must_be_stored_again() -> None:
    manager = make_manager(device=1, host=1)
    (block_id,) = fill(manager, 1, num_tokens=1)
    early = manager.order_store([block_id])
    manager.mark_filled(block_id, 2)
    late = manager.order_store([block_id])
    assert late is not None
    land(manager, early)
    assert not manager.is_on_host(block_id)
    assert manager.order_store([block_id]) is None
    land(manager, late)
    assert manager.is_on_host(block_id)
    manager.check_integrity()


def test_a_failed_store_loses_nothing_and_can_be_ordered_again() -> None:
    manager = make_manager(device=2, host=2)
    block_ids = fill(manager, 2)
    completed = land(manager, manager.order_store(block_ids), failed=(1,))
    assert completed.failed_block_ids == (block_ids[1],)
    assert completed.lost_block_ids == ()
    assert [manager.is_on_host(b) for b in block_ids] == [True, False]
    again = manager.order_store(block_ids)
    assert again is not None
    assert again.num_slots == 1


def test_a_cached_block_whose_store_failed_stays_while_it_is_on_the_device() -> None:
    manager = make_manager(device=1, host=1)
    (block_id,) = fill(manager, 1)
    manager.commit_hash(block_id, b"a")
    job = manager.order_store([block_id])
    manager.free([block_id])
    land(manager, job, failed=(0,))
    manager.check_integrity()
    assert manager.lookup_prefix([b"a"]) == [block_id]
    allocate(manager, 1)
    assert manager.lookup_prefix([b"a"]) == []


# --- load


def test_a_load_counts_at_once_and_pins_its_source() -> None:
    manager = make_manager(device=2, host=2)
    block_ids = fill_and_store(manager, 2)
    manager.drop_device(block_ids)
    job = manager.order_load(block_ids)
    assert job is not None
    assert (job.source, job.target) == (Tier.HOST, Tier.DEVICE)
    assert unpack_int32(job.target_slots) == unpack_int32(manager.device_slots(block_ids))
    assert manager.order_load(block_ids) is None
    manager.free(block_ids)
    assert manager.num_free_device_slots == 2  # later messages come after the load
    assert manager.num_free_host_slots == 0
    land(manager, job)
    assert manager.num_free_host_slots == 2


def test_a_loaded_block_may_be_evicted_before_the_load_is_reported() -> None:
    manager = make_manager(device=1, host=2)
    first = fill_and_store(manager, 1)
    second = fill_and_store(manager, 1)
    assert manager.missing_on_device(first) == first
    job = manager.order_load(first)
    assert manager.missing_on_device(second) == second
    again = manager.order_load(second)
    assert job is not None
    assert again is not None
    assert job.target_slots == again.target_slots
    for copy in (job, again):
        land(manager, copy)
    assert manager.missing_on_device(first + second) == first
    manager.check_integrity()


def test_a_load_that_finds_no_room_changes_nothing() -> None:
    manager = make_manager(device=3, host=9)
    away = fill_and_store(manager, 2)
    manager.drop_device(away)
    kept = fill_and_store(manager, 2)
    before = manager.occupancy()
    assert manager.order_load(away, protected=kept) is None
    assert manager.occupancy() == before
    assert manager.num_pending_copies == 0
    assert manager.order_load(away, protected=kept[:1]) is not None


def test_making_room_for_a_request_does_not_evict_its_own_blocks() -> None:
    manager = make_manager(device=2, host=3)
    block_ids = fill_and_store(manager, 2)
    manager.drop_device(block_ids[1:])
    allocate(manager, 1)
    assert manager.order_load(block_ids) is None
    assert manager.is_on_device(block_ids[0])


@pytest.mark.parametrize("is_parked", [False, True])
def test_what_has_no_reported_host_copy_is_not_loaded(is_parked: bool) -> None:
    manager = make_manager(device=1, host=1, nvme=1)
    block_ids = park(manager, 1)
    job = None if is_parked else manager.order_promote(block_ids)
    with pytest.raises(InvariantError, match="no reported HOST copy"):
        manager.order_load(block_ids)
    if job is not None:
        land(manager, job)
        assert manager.order_load(block_ids) is not None


def test_a_failed_load_loses_the_block() -> None:
    manager = make_manager(device=2, host=2)
    block_ids = fill_and_store(manager, 2)
    manager.drop_device(block_ids)
    completed = land(manager, manager.order_load(block_ids), failed=(0,))
    assert completed.lost_block_ids == (block_ids[0],)
    assert manager.missing_on_device(block_ids) == [block_ids[0]]
    assert manager.tier_of(block_ids[0]) is None
    manager.check_integrity()


# --- demote and promote


def test_a_demoted_block_gives_up_its_host_slot_when_reported() -> None:
    manager = make_manager(device=1, host=1, nvme=1)
    (block_id,) = fill_and_store(manager, 1)
    manager.drop_device([block_id])
    job = manager.order_demote([block_id])
    assert manager.order_demote([block_id]) is None
    assert manager.is_on_host(block_id)
    assert manager.num_free_host_slots == 0
    land(manager, job)
    assert manager.tier_of(block_id) is Tier.NVME
    assert manager.num_free_host_slots == 1
    assert manager.num_free_nvme_slots == 0


def test_a_demoted_block_that_is_also_loaded_keeps_its_host_slot_pinned() -> None:
    manager = make_manager(device=1, host=1, nvme=1)
    (block_id,) = fill_and_store(manager, 1)
    manager.drop_device([block_id])
    demote = manager.order_demote([block_id])
    load = manager.order_load([block_id])
    land(manager, demote)
    assert manager.num_free_host_slots == 0
    assert manager.tier_of(block_id) is Tier.DEVICE
    land(manager, load)
    assert manager.num_free_host_slots == 1
    assert manager.num_available_device_slots() == 1  # its NVME copy is its backup
    manager.check_integrity()


def test_a_promoted_block_leaves_nvme_when_reported() -> None:
    manager = make_manager(device=1, host=1, nvme=1)
    (block_id,) = park(manager, 1)
    job = manager.order_promote([block_id])
    assert manager.order_promote([block_id]) is None
    assert not manager.is_on_host(block_id)
    land(manager, job)
    assert manager.tier_of(block_id) is Tier.HOST
    assert manager.num_free_nvme_slots == 1


def test_only_a_reported_host_copy_is_demoted() -> None:
    manager = make_manager(device=1, host=1, nvme=1)
    block_ids = fill(manager, 1)
    manager.order_store(block_ids)
    with pytest.raises(InvariantError, match="cannot be demoted"):
        manager.order_demote(block_ids)


@pytest.mark.parametrize("nvme", [0, 1])
def test_moves_that_find_no_room_change_nothing(nvme: int) -> None:
    manager = make_manager(device=4, host=4, nvme=nvme)
    block_ids = fill_and_store(manager, 2)
    before = manager.occupancy()
    assert manager.order_demote(block_ids) is None
    assert manager.occupancy() == before
    assert all(map(manager.is_on_host, block_ids))


def test_a_promote_that_finds_no_room_changes_nothing() -> None:
    manager = make_manager(device=2, host=2, nvme=2)
    block_ids = park(manager, 2)
    allocate(manager, 1)
    assert manager.order_promote(block_ids) is None
    assert manager.order_promote(block_ids[:1]) is not None
    assert manager.num_available_host_slots == 0


def test_a_cached_block_makes_room_on_nvme() -> None:
    manager = make_manager(device=2, host=2, nvme=1)
    (old,) = park(manager, 1)
    (new,) = fill_and_store(manager, 1)
    assert (manager.num_free_nvme_slots, manager.num_available_nvme_slots) == (0, 0)
    assert manager.order_demote([new]) is None
    land(manager, manager.order_promote([old]))
    manager.commit_hash(old, b"a")
    land(manager, manager.order_demote([old]))
    manager.free([old])
    assert manager.lookup_prefix([b"a"]) == [old]
    assert manager.num_available_nvme_slots == 1
    assert manager.order_demote([new]) is not None
    assert manager.lookup_prefix([b"a"]) == []


def test_a_failed_demote_keeps_the_host_copy() -> None:
    manager = make_manager(device=1, host=1, nvme=1)
    block_ids = fill_and_store(manager, 1)
    completed = land(manager, manager.order_demote(block_ids), failed=(0,))
    assert completed.failed_block_ids == tuple(block_ids)
    assert completed.lost_block_ids == ()
    assert manager.is_on_host(block_ids[0])
    assert manager.num_free_nvme_slots == 1


def test_a_failed_promote_loses_the_only_copy() -> None:
    manager = make_manager(device=1, host=1, nvme=1)
    block_ids = park(manager, 1)
    completed = land(manager, manager.order_promote(block_ids), failed=(0,))
    assert completed.lost_block_ids == tuple(block_ids)
    assert manager.num_free_host_slots == manager.num_free_nvme_slots == 1
    manager.free(block_ids)
    assert manager.is_idle


def test_a_failed_promote_of_a_block_on_the_device_loses_nothing() -> None:
    manager = make_manager(device=1, host=1, nvme=1)
    (block_id,) = fill_and_store(manager, 1)
    land(manager, manager.order_demote([block_id]))
    completed = land(manager, manager.order_promote([block_id]), failed=(0,))
    assert completed.failed_block_ids == (block_id,)
    assert completed.lost_block_ids == ()
    assert manager.tier_of(block_id) is Tier.DEVICE
    assert manager.num_available_device_slots() == 0
    assert manager.order_store([block_id]) is not None
    manager.check_integrity()


# --- appends while background copies are in flight


def test_an_append_during_a_demote_voids_what_lands() -> None:
    manager = make_manager(device=1, host=1, nvme=2)
    (block_id,) = fill_and_store(manager, 1, num_tokens=1)
    stale = manager.order_demote([block_id])
    manager.mark_filled(block_id, 2)
    land(manager, manager.order_store([block_id]))
    fresh = manager.order_demote([block_id])
    land(manager, stale)
    assert manager.is_on_host(block_id)
    assert manager.num_free_nvme_slots == 1
    assert block_id not in manager._table.nvme.valid
    land(manager, fresh)
    assert block_id in manager._table.nvme.valid
    manager.check_integrity()


def test_a_store_after_an_append_never_shares_its_slot_with_a_late_promote() -> None:
    manager = make_manager(device=1, host=2, nvme=1)
    (block_id,) = fill_and_store(manager, 1, num_tokens=1)
    land(manager, manager.order_demote([block_id]))
    promote = manager.order_promote([block_id])
    manager.mark_filled(block_id, 2)
    store = manager.order_store([block_id])
    assert promote is not None
    assert store is not None
    assert promote.target_slots != store.target_slots
    land(manager, promote)
    assert not manager.is_on_host(block_id)
    land(manager, store)
    assert manager.is_on_host(block_id)
    manager.check_integrity()


def test_without_a_host_slot_to_take_the_store_waits() -> None:
    manager = make_manager(device=2, host=1, nvme=1)
    (block_id,) = fill_and_store(manager, 1)
    land(manager, manager.order_demote([block_id]))
    (other,) = fill(manager, 1)
    assert slot_of(manager, block_id, Tier.HOST) is None
    assert manager.order_store([block_id]) is None
    manager.free([other])
    assert manager.order_store([block_id]) is not None


def test_a_block_on_host_and_nvme_is_demoted_without_a_copy() -> None:
    manager = make_manager(device=1, host=1, nvme=1)
    (block_id,) = fill_and_store(manager, 1)
    land(manager, manager.order_demote([block_id]))
    land(manager, manager.order_store([block_id]))
    assert manager.is_on_host(block_id)
    assert manager.order_demote([block_id]) is None
    assert not manager.is_on_host(block_id)
    assert manager.num_free_host_slots == 1
    manager.drop_device([block_id])
    assert manager.tier_of(block_id) is Tier.NVME
