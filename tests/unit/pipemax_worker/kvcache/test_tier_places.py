from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipemax_worker.kvcache.eviction import LRUEviction
from pipemax_worker.kvcache.tier_places import TierPlaces


def make_places(*block_ids: int) -> TierPlaces:
    """Block n has slot 100 + n."""
    places = TierPlaces(4, LRUEviction())
    places.slots.update({block_id: 100 + block_id for block_id in block_ids})
    return places


@pytest.mark.parametrize("block_ids", [(), (2,), (2, 0), (1, 1)])
def test_slots_come_in_the_order_of_the_blocks(block_ids: tuple[int, ...]) -> None:
    places = make_places(0, 1, 2)
    assert places.slots_of(block_ids) == tuple(100 + block_id for block_id in block_ids)


@pytest.mark.parametrize("block_ids", [(9,), (0, 9), (9, 0)])
def test_a_block_without_a_slot_is_named(block_ids: tuple[int, ...]) -> None:
    with pytest.raises(KeyError, match="9"):
        make_places(0, 1).slots_of(block_ids)


@given(st.lists(st.integers(0, 6), unique=True), st.sets(st.integers(0, 6)))
def test_valid_blocks_are_counted_up_to_the_first_that_is_not(
    block_ids: list[int], valid: set[int]
) -> None:
    places = make_places(*range(7))
    places.valid |= valid
    flags = [block_id in valid for block_id in block_ids]
    assert places.count_valid(block_ids) == [*flags, False].index(False)


def test_what_is_taken_out_leaves_nothing_behind() -> None:
    places = make_places(0, 1, 2)
    places.valid |= {0, 2}
    places.incoming.update({1: 5, 2: 3})
    assert places.take_out([2, 7, 1]) == [102, 101]
    assert (places.slots, places.valid, places.incoming) == ({0: 100}, {0}, {})


def test_each_block_is_taken_out_once() -> None:
    places = make_places(0)
    assert places.take_out([0, 0]) == [100]
    assert places.take_out([0]) == []
