"""Who holds which block, and what leaves the device."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.engine import make_geometry, make_manager, make_request
from kit.kv_blocks import land
from pipemax_worker.engine.device_room import DeviceRoom
from pipemax_worker.engine.micro_batches import MicroBatches
from pipemax_worker.engine.request_state import RequestState
from pipemax_worker.engine.residency import Residency
from pipemax_worker.kvcache.block_manager import BlockManager
from pipemax_worker.performance.hardware import CPU_PROFILE
from pipemax_worker.performance.roofline import RooflineEstimator, StageCost


class Scene:
    """Two requests: ``first`` holds four stored blocks, ``second`` shares two of them."""

    def __init__(self) -> None:
        self.manager: BlockManager = make_manager(make_geometry(device=8, host=16))
        estimator = RooflineEstimator(CPU_PROFILE, [StageCost(1, 1, 1)])
        self.micro_batches = MicroBatches(1, estimator)
        self.residency = Residency(self.manager, self.micro_batches)
        self.room = DeviceRoom(self.manager, self.residency, self.micro_batches)
        self.first, self.second = (
            RequestState(number, make_request(number, [1, 2, 3], 9)) for number in range(2)
        )
        assert self.residency.allocate(self.first, 4)
        self.block_ids = list(self.first.block_ids)
        self.manager.mark_all_filled(self.block_ids, [2] * 4)
        land(self.manager, self.manager.order_store(self.block_ids))
        self.shared = self.block_ids[:2]
        assert self.residency.attach(self.second, self.shared) == 2
        for state in (self.first, self.second):
            self.micro_batches.add(state, 0)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_block_knows_all_its_holders_in_order(scene: Scene) -> None:
    residency = scene.residency
    assert residency.holders(scene.shared[0]) == [scene.first, scene.second]
    assert residency.holders(scene.block_ids[3]) == [scene.first]
    assert residency.holders(99) == []
    assert residency.own_block_ids(scene.first) == scene.block_ids[2:]


def test_who_stays_holds_the_block_alone(scene: Scene) -> None:
    scene.residency.release(scene.first)
    assert scene.residency.holders(scene.shared[0]) == [scene.second]
    assert not scene.residency.shared
    assert scene.residency.held.keys() == set(scene.shared)
    scene.residency.release(scene.second)
    assert not scene.residency.held
    assert scene.manager.is_idle


def test_shared_blocks_stay_on_the_device(scene: Scene) -> None:
    assert not scene.room.make(7, [scene.first])
    assert scene.residency.missing(scene.first) == scene.block_ids[2:]
    assert scene.residency.missing(scene.second) == []
    scene.manager.check_integrity()


def test_a_load_brings_the_block_back_for_every_holder(scene: Scene) -> None:
    for block_id in scene.shared:
        scene.residency.drop(block_id)
    (micro_batch,) = scene.micro_batches
    assert list(micro_batch.lacking) == [0, 1]
    land(scene.manager, scene.residency.load(scene.shared))
    assert list(micro_batch.resident) == [0, 1]
    assert list(scene.first.on_device) == scene.block_ids
    assert scene.residency.packed_slots(scene.second) == scene.manager.device_slots(scene.shared)
    scene.manager.check_integrity()


class Crowd:
    """Requests of one micro-batch, each with its own blocks, all but the last one stored."""

    def __init__(self, sizes: list[int]) -> None:
        self.manager = make_manager(make_geometry(device=40, host=80))
        estimator = RooflineEstimator(CPU_PROFILE, [StageCost(1, 1, 1)])
        self.micro_batches = MicroBatches(1, estimator)
        self.residency = Residency(self.manager, self.micro_batches)
        self.room = DeviceRoom(self.manager, self.residency, self.micro_batches)
        self.states = [RequestState(n, make_request(n, [1], 9)) for n in range(len(sizes))]
        for state, size in zip(self.states, sizes, strict=True):
            assert self.residency.allocate(state, size)
            self.manager.mark_all_filled(state.block_ids, [2] * size)
            if len(state.block_ids) > 1:
                land(self.manager, self.manager.order_store(state.block_ids[:-1]))
            self.micro_batches.add(state, 0)

    def check(self) -> None:
        """What is known of each request is what the manager says."""
        (micro_batch,) = self.micro_batches
        for state in self.states:
            there = [b for b in state.block_ids if self.manager.is_on_device(b)]
            assert list(state.on_device) == there
            assert self.residency.missing(state) == self.manager.missing_on_device(state.block_ids)
            assert (state.request_id in micro_batch.resident) == state.is_resident
            if state.packed_slots is not None:
                assert state.packed_slots == self.manager.device_slots(state.block_ids)
        self.manager.check_integrity()


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    turns=st.lists(
        st.tuples(st.integers(1, 40), st.lists(st.integers(0, 5), max_size=4), st.integers(1, 12)),
        max_size=6,
    ),
)
def test_requests_know_their_blocks_whatever_leaves_and_comes_back(
    sizes: list[int], turns: list[tuple[int, list[int], int]]
) -> None:
    crowd = Crowd(sizes)
    for num_slots, wanted, num_loaded in turns:
        crowd.room.make(num_slots, list(crowd.states))
        crowd.check()
        states = [crowd.states[n] for n in dict.fromkeys(wanted) if n < len(crowd.states)]
        block_ids = [b for state in states for b in crowd.residency.missing(state)]
        crowd.residency.load(block_ids[:num_loaded])
        crowd.check()


def test_a_load_that_jumps_between_requests_is_noted_too() -> None:
    crowd = Crowd([4, 4])
    crowd.room.make(40, list(crowd.states))
    first, second = (crowd.residency.missing(state) for state in crowd.states)
    job = crowd.residency.load([first[1], second[0], first[0], second[2]])
    assert job is not None
    crowd.check()
    assert crowd.residency.missing(crowd.states[0]) == first[2:]


def test_blocks_for_all_are_those_of_one_after_the_other() -> None:
    one, other = Crowd([1, 2, 3]), Crowd([1, 2, 3])
    sizes = [2, 1, 3]
    assert one.residency.allocate_each(list(zip(one.states, sizes, strict=True)))
    for state, size in zip(other.states, sizes, strict=True):
        assert other.residency.allocate(state, size)
    for state, same in zip(one.states, other.states, strict=True):
        assert state.block_ids == same.block_ids
        assert one.residency.packed_slots(state) == other.residency.packed_slots(same)
    one.check()


def test_blocks_for_all_are_refused_where_one_would_be_short() -> None:
    crowd = Crowd([6, 6])
    num_free = crowd.manager.num_free_device_slots
    before = [list(state.block_ids) for state in crowd.states]
    assert not crowd.residency.allocate_each([(crowd.states[0], num_free), (crowd.states[1], 1)])
    assert [state.block_ids for state in crowd.states] == before
    crowd.residency.owed.total = 1  # simulations count blocks that are not allocated yet
    assert not crowd.residency.allocate_each([(crowd.states[0], num_free)])
    crowd.residency.owed.total = 0
    assert crowd.residency.allocate_each([(crowd.states[0], num_free)])
    crowd.check()
