from __future__ import annotations

import pytest
from pipemax_worker.errors import InvariantError
from pipemax_worker.kvcache.slot_pool import SlotPool


def test_every_slot_is_handed_out_once() -> None:
    pool = SlotPool(3)
    assert sorted([*pool.allocate(2), *pool.allocate(1)]) == [0, 1, 2]
    assert pool.num_free == 0
    with pytest.raises(InvariantError, match="1 slots asked of a pool with 0 free"):
        pool.allocate(1)


def test_allocating_none_is_allowed_and_takes_none() -> None:
    pool = SlotPool(2)
    assert pool.allocate(0) == []
    assert pool.num_free == 2


def test_a_released_slot_is_free_at_once_unless_a_copy_uses_it() -> None:
    pool = SlotPool(2)
    pinned, plain = pool.allocate(2)
    pool.pin(0, [pinned])
    pool.release(pinned)
    pool.release(plain)
    assert pool.free_slots == (plain,)
    assert pool.draining_slots == {pinned}
    pool.unpin(0)
    assert set(pool.free_slots) == {plain, pinned}
    assert not pool.draining_slots


def test_the_last_of_several_copies_frees_the_slot() -> None:
    pool = SlotPool(1)
    (slot,) = pool.allocate(1)
    pool.pin(0, [slot])
    pool.pin(1, [slot])
    pool.release(slot)
    pool.unpin(1)
    assert pool.is_pinned(slot)
    assert pool.num_free == 0
    pool.unpin(0)
    assert not pool.is_pinned(slot)
    assert pool.num_free == 1


def test_a_copy_that_ends_leaves_an_owned_slot_owned() -> None:
    pool = SlotPool(1)
    pool.pin(0, pool.allocate(1))
    pool.unpin(0)
    assert pool.num_free == 0


@pytest.mark.parametrize("job_id", [0, 1])
def test_a_copy_that_uses_nothing_cannot_end(job_id: int) -> None:
    pool = SlotPool(1)
    pool.pin(0, pool.allocate(1))
    pool.unpin(0)
    with pytest.raises(InvariantError, match=f"copy {job_id} gives up slots"):
        pool.unpin(job_id)


def test_pins_that_overlap_are_counted() -> None:
    pool = SlotPool(4)
    pool.allocate(4)
    pool.pin(0, [2, 0, 1])
    pool.pin(1, [1, 2, 3])
    assert pool.pins == {0: 1, 1: 2, 2: 2, 3: 1}
    pool.release_all([1, 0, 2])
    pool.unpin(0)
    assert pool.free_slots == (0,)
    assert pool.pins == {1: 1, 2: 1, 3: 1}
    pool.unpin(1)
    assert pool.free_slots == (0, 1, 2)
    assert not pool.pins


def test_slots_that_drained_come_back_in_the_order_of_their_copy() -> None:
    pool = SlotPool(4)
    pool.allocate(4)
    pool.pin(0, [3, 0, 2])
    pool.release_all([0, 1, 2, 3])
    assert pool.free_slots == (1,)
    pool.unpin(0)
    assert pool.free_slots == (1, 3, 0, 2)


def test_slots_released_together_come_back_in_their_order() -> None:
    pool = SlotPool(3)
    slots = pool.allocate(3)
    pool.release_all(slots)
    assert pool.free_slots == tuple(slots)


@pytest.mark.parametrize("sizes", [[1, 1, 1], [2, 1], [1, 0, 3], [4], [], [0]])
def test_slots_for_each_are_those_of_one_after_the_other(sizes: list[int]) -> None:
    pool, other = SlotPool(6), SlotPool(6)
    assert pool.allocate_each(sizes) == [slot for size in sizes for slot in other.allocate(size)]
    assert pool.free_slots == other.free_slots


def test_slots_for_each_are_refused_together() -> None:
    pool = SlotPool(3)
    with pytest.raises(InvariantError, match="4 slots asked"):
        pool.allocate_each([2, 2])
    assert pool.num_free == 3
