"""Stores count once their message is closed, reported or not (decision 0005)."""

from __future__ import annotations

import pytest
from kit.kv_blocks import fill, make_manager
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.transfers import CopyJob, CopyResult
from pipemax_worker.kvcache.block_manager import BlockManager


def store(manager: BlockManager, block_ids: list[int]) -> CopyJob:
    job = manager.order_store(block_ids)
    assert job is not None
    return job


def report(manager: BlockManager, job: CopyJob, failed: tuple[int, ...] = ()) -> list[int]:
    """All stages report; returns the blocks that are lost."""
    lost: list[int] = []
    for stage in range(2):
        for copy in manager.update_from_report(
            stage, [CopyResult(job.job_id, 4096, 0.001, failed)]
        ):
            lost += copy.lost_block_ids
    manager.check_integrity()
    return lost


def test_a_store_counts_from_the_next_message_on_and_not_before() -> None:
    manager = make_manager(device=2, host=2)
    block_ids = fill(manager, 2)
    store(manager, block_ids)
    assert not any(map(manager.is_on_host, block_ids))
    assert manager.num_available_device_slots() == 0
    assert manager.close_message() == block_ids
    assert all(map(manager.is_on_host, block_ids))
    assert manager.num_available_device_slots() == 2
    manager.check_integrity()


def test_the_device_slot_is_given_away_before_the_report() -> None:
    manager = make_manager(device=1, host=2)
    (first,) = fill(manager, 1)
    job = store(manager, [first])
    assert manager.allocate(1) is None
    manager.close_message()
    (second,) = manager.allocate(1) or [None]
    assert second is not None
    assert manager.missing_on_device([first]) == [first]
    manager.check_integrity()
    assert report(manager, job) == []
    assert manager.is_on_host(first)


def test_a_block_can_be_loaded_back_before_its_store_is_reported() -> None:
    manager = make_manager(device=1, host=1)
    (block_id,) = fill(manager, 1)
    job = store(manager, [block_id])
    manager.close_message()
    manager.drop_device([block_id])
    load = manager.order_load([block_id])
    assert load is not None
    assert load.source_slots == job.target_slots
    assert report(manager, job) == []
    assert report(manager, load) == []


def test_an_append_voids_a_store_that_counts_already() -> None:
    manager = make_manager(device=1, host=1)
    (block_id,) = fill(manager, 1, num_tokens=1)
    first = store(manager, [block_id])
    manager.close_message()
    manager.mark_filled(block_id, 2)
    assert not manager.is_on_host(block_id)
    second = store(manager, [block_id])
    assert report(manager, first) == []
    assert not manager.is_on_host(block_id)  # it brought fewer tokens than there are now
    manager.close_message()
    assert manager.is_on_host(block_id)
    assert report(manager, second) == []


def test_a_store_reported_within_its_message_is_not_counted_twice() -> None:
    manager = make_manager(device=1, host=1)
    (block_id,) = fill(manager, 1)
    job = store(manager, [block_id])
    report(manager, job)
    assert manager.close_message() == []
    assert manager.is_on_host(block_id)
    manager.check_integrity()


@pytest.mark.parametrize("is_still_on_device", [True, False])
def test_a_store_that_fails_after_it_counted_loses_the_block(is_still_on_device: bool) -> None:
    """Nobody knows who has read what it left in the HOST slot."""
    manager = make_manager(device=1, host=1)
    (block_id,) = fill(manager, 1)
    job = store(manager, [block_id])
    manager.close_message()
    if not is_still_on_device:
        manager.drop_device([block_id])
    assert report(manager, job, failed=(0,)) == [block_id]
    assert manager.tier_of(block_id) is None


def test_a_block_freed_under_its_store_frees_its_slots() -> None:
    manager = make_manager(device=1, host=1)
    (block_id,) = fill(manager, 1)
    job = store(manager, [block_id])
    manager.close_message()
    manager.free([block_id])
    assert manager.num_free_device_slots == 1
    assert manager.num_free_host_slots == 0  # the copy still writes there
    report(manager, job)
    assert manager.num_free_host_slots == 1
    assert manager.occupancy()[Tier.HOST].used == 0
