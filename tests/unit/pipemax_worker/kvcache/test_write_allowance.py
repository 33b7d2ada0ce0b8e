"""Blocks go down to NVME only as far as writing is allowed."""

from __future__ import annotations

from kit.kv_blocks import fill_and_store, land
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.kvcache.block_manager import BlockManager


class Allowance:
    """So many blocks."""

    def __init__(self, num_left: int) -> None:
        self.num_left = num_left

    def num_blocks(self, at_most: int) -> int:
        return min(at_most, self.num_left)

    def take(self, num_blocks: int) -> bool:
        if num_blocks > self.num_left:
            return False
        self.num_left -= num_blocks
        return True

    def give_back(self, num_blocks: int) -> None:
        self.num_left += num_blocks


def make_manager(num_left: int, nvme: int = 4) -> tuple[BlockManager, Allowance]:
    allowance = Allowance(num_left)
    num_slots = {Tier.DEVICE: 8, Tier.HOST: 8, Tier.NVME: nvme}
    return BlockManager(num_slots, 2, nvme_writes=allowance), allowance


def test_what_is_written_is_counted_once() -> None:
    manager, allowance = make_manager(3)
    block_ids = fill_and_store(manager, 2)
    assert manager.num_available_nvme_slots == 3
    job = manager.order_demote(block_ids)
    assert manager.order_demote(block_ids) is None
    land(manager, job)
    assert manager.order_demote(block_ids) is None, "they are there"
    assert allowance.num_left == 1
    assert manager.num_available_nvme_slots == 1


def test_without_an_allowance_the_tier_is_as_good_as_full() -> None:
    manager, allowance = make_manager(1)
    block_ids = fill_and_store(manager, 2)
    before = manager.occupancy()
    assert manager.order_demote(block_ids) is None
    assert manager.occupancy() == before
    assert allowance.num_left == 1, "nothing was written"
    assert all(map(manager.is_on_host, block_ids))
    land(manager, manager.order_demote(block_ids[:1]))
    manager.check_integrity()


def test_without_room_nothing_is_counted() -> None:
    manager, allowance = make_manager(8, nvme=1)
    assert manager.order_demote(fill_and_store(manager, 2)) is None
    assert allowance.num_left == 8


def test_reading_is_free() -> None:
    manager, allowance = make_manager(2)
    block_ids = fill_and_store(manager, 2)
    land(manager, manager.order_demote(block_ids))
    manager.drop_device(block_ids)
    land(manager, manager.order_promote(block_ids))
    assert allowance.num_left == 0
    manager.check_integrity()
