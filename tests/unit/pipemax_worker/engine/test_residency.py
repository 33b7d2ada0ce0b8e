"""Who holds which block, and what leaves the device."""

from __future__ import annotations

import pytest
from kit.engine import make_geometry, make_manager, make_request
from kit.kv_blocks import land
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
    assert not scene.residency.make_room(7, [scene.first])
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
