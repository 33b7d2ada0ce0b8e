from __future__ import annotations

import pytest
from kit.kv_blocks import fill_and_store
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.kvcache.block_manager import BlockManager
from pipemax_worker.kvcache.eviction import CachedEviction, LRUEviction, RotationEviction


def rotation(*referenced: int, cached: tuple[int, ...] = ()) -> RotationEviction:
    policy = RotationEviction()
    for block_id in cached:
        policy.insert(block_id, is_referenced=False)
    for block_id in referenced:
        policy.insert(block_id, is_referenced=True)
    return policy


def test_cached_blocks_go_first_oldest_first() -> None:
    policy = rotation(1, 2, cached=(8, 7, 9))
    policy.touch([1, 2])
    assert policy.evict(4, ()) == [8, 7, 9, 2]


def test_what_was_read_last_goes_first_tail_before_head() -> None:
    policy = rotation(1, 2, 3, 4, 5, 6)
    policy.touch([1, 2, 3])
    policy.touch([4, 5, 6])
    assert policy.evict(4, ()) == [6, 5, 4, 3]


def test_a_newer_use_counts_and_the_old_one_does_not() -> None:
    policy = rotation(1, 2, 3, 4)
    policy.touch([1, 2])
    policy.touch([3, 4])
    policy.touch([1, 2])
    assert policy.evict(3, ()) == [2, 1, 4]


@pytest.mark.parametrize("protected", [{3, 4}, {4: None, 3: None}, frozenset({3, 4})])
def test_protected_requests_are_passed_over(protected: set[int]) -> None:
    policy = rotation(1, 2, 3, 4)
    policy.touch([1, 2])
    policy.touch([3, 4])
    assert policy.evict(9, protected) == [2, 1]


def test_protected_blocks_stay_even_in_a_group_that_goes_and_among_the_cached() -> None:
    policy = rotation(1, 2, 3, cached=(7, 8))
    policy.touch([1, 2, 3])
    assert policy.evict(9, {1, 7}) == [8, 3, 2]
    assert policy.evict(9, {1, 2, 3, 7, 8}) == []


def test_a_shared_block_is_chosen_once() -> None:
    policy = rotation(1, 2, 3)
    policy.touch([1, 2])
    policy.touch([1, 3])
    assert sorted(policy.evict(3, ())) == [1, 2, 3]


def test_blocks_that_nobody_has_read_yet_go_last_newest_first() -> None:
    policy = rotation(1, 2, 3, 4)
    policy.touch([1])
    assert policy.evict(4, ()) == [1, 4, 3, 2]


def test_a_refused_eviction_forgets_no_block() -> None:
    policy = rotation(1, 2, 3)
    policy.touch([1, 2, 3])
    policy.evict(3, {1})  # the table finds two too few and evicts none
    assert sorted(policy.evict(3, ())) == [1, 2, 3]


def test_a_growing_request_stays_one_group() -> None:
    policy = rotation(*range(10))
    for end in range(1, 10):
        policy.touch(list(range(end)))
    assert len(policy._uses) == 1
    assert policy.evict(2, ()) == [8, 7]


def test_the_group_is_the_policys_own() -> None:
    policy = rotation(1, 2, 3)
    block_ids = [1, 2]
    policy.touch(block_ids)
    block_ids.append(3)
    assert policy.evict(2, ()) == [2, 1]


def test_groups_of_finished_requests_are_forgotten() -> None:
    policy = rotation(1)
    policy.touch([1])
    for block_id in range(10, 10_000):
        policy.insert(block_id, is_referenced=True)
        policy.touch([block_id])
        policy.remove(block_id)
    assert len(policy._uses) < 200
    assert policy.evict(2, ()) == [1]


def test_rotation_moves_a_block_between_its_two_kinds() -> None:
    policy = rotation(1, cached=(2,))
    policy.insert(1, is_referenced=False)
    policy.insert(2, is_referenced=True)
    assert len(policy) == 2
    assert policy.evict(2, ()) == [1, 2]
    policy.remove(1)
    policy.remove(1)
    assert 1 not in policy
    assert 2 in policy
    assert len(policy) == 1


def test_lru_keeps_the_rank_of_a_block_it_knows() -> None:
    policy = LRUEviction()
    for block_id in (3, 1, 2, 3):
        policy.insert(block_id, is_referenced=False)
    policy.touch([3])
    assert len(policy) == 3
    assert policy.evict(2, {1}) == [3, 2]
    policy.remove(3)
    policy.insert(3, is_referenced=False)
    assert policy.evict(9, ()) == [1, 2, 3]
    assert 1 in policy


def test_a_policy_for_cached_blocks_is_never_told_of_others() -> None:
    num_slots = {Tier.DEVICE: 4, Tier.HOST: 8, Tier.NVME: 0}
    manager = BlockManager(num_slots, 1, CachedEviction())
    block_ids = fill_and_store(manager, 3)
    manager.commit_hash(block_ids[0], 1)
    manager.check_integrity()
    assert manager.num_available_device_slots() == 1
    manager.free(block_ids)
    manager.check_integrity()
    assert manager.num_available_device_slots() == 4
    assert manager.num_cached_device_slots == 1


def test_an_empty_policy_is_a_policy() -> None:
    manager = BlockManager({Tier.DEVICE: 2}, 1, LRUEviction())
    assert isinstance(manager._table.device.droppable, LRUEviction)
