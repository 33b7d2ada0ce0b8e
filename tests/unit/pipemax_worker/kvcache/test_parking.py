"""Blocks that an earlier run has left on NVME: adopted, claimed, shared, lost, given up."""

import random

import pytest
from kit.kv_blocks import fill_and_store, land, make_manager, park
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.transfers import CopyResult, unpack_int32
from pipemax_worker.errors import InvariantError
from pipemax_worker.kvcache.block_manager import BlockManager
from pipemax_worker.kvcache.parking import ParkedKV, find_fault

BLOCK_TOKENS = 2


def adopt(manager: BlockManager, *parked: ParkedKV) -> None:
    manager.parked.adopt(parked, BLOCK_TOKENS)
    manager.check_integrity()


def promote(manager: BlockManager, block_ids: list[int]) -> None:
    land(manager, manager.order_promote(block_ids))
    manager.check_integrity()


def test_what_was_demoted_can_be_named_by_slots_and_adopted_elsewhere() -> None:
    first = make_manager(device=4, host=4, nvme=6)
    block_ids = park(first, 2)
    slots = first.parked.nvme_slots(block_ids)
    assert len(slots) == 2

    second = make_manager(device=4, host=4, nvme=6)
    adopt(second, ParkedKV(slots, 3))
    assert second.num_free_nvme_slots == 4
    claimed = second.parked.claim(slots)
    assert [second.tier_of(block_id) for block_id in claimed] == [Tier.NVME] * 2
    promote(second, claimed)
    assert second.num_free_nvme_slots == 6, "moved, not doubled"
    second.free(claimed)
    assert second.is_idle


def test_slots_are_named_up_to_the_first_block_that_is_not_on_nvme() -> None:
    manager = make_manager(device=8, host=8, nvme=8)
    on_nvme, on_host = park(manager, 2), fill_and_store(manager, 1)
    slots = manager.parked.nvme_slots(on_nvme)
    assert manager.parked.nvme_slots([*on_nvme, *on_host]) == slots
    assert manager.parked.nvme_slots([*on_host, *on_nvme]) == ()


def test_a_tail_that_was_adopted_can_be_filled_further() -> None:
    manager = make_manager(device=4, host=4, nvme=4)
    adopt(manager, ParkedKV((3,), 1))
    (block_id,) = manager.parked.claim((3,))
    promote(manager, [block_id])
    assert manager.order_load([block_id]) is not None
    manager.mark_filled(block_id, 2)
    assert not manager.is_on_host(block_id), "what lies there is void now"


def test_slots_are_claimed_once() -> None:
    manager = make_manager(device=4, host=4, nvme=4)
    adopt(manager, ParkedKV((0, 1), 4))
    assert len(manager.parked.claim((0, 1))) == 2
    assert manager.parked.claim((0, 1)) == []
    assert manager.parked.claim((2, 3)) == [], "never adopted: a restarted pipeline knows nothing"


class TestSharedHead:
    """Slots 0 and 1 are the head of two requests with a tail each."""

    @staticmethod
    def adopted() -> BlockManager:
        manager = make_manager(device=6, host=6, nvme=6)
        adopt(manager, ParkedKV((0, 1, 2), 5), ParkedKV((0, 1, 3), 6))
        return manager

    def test_it_is_taken_in_once(self) -> None:
        manager = self.adopted()
        assert manager.num_free_nvme_slots == 2
        one, other = manager.parked.claim((0, 1, 2)), manager.parked.claim((0, 1, 3))
        assert one[:2] == other[:2]
        manager.free(one)
        manager.check_integrity()
        manager.free(other)
        assert manager.is_idle
        assert manager.num_free_nvme_slots == 6

    def test_it_stays_on_nvme_for_the_one_that_comes_later(self) -> None:
        manager = self.adopted()
        one = manager.parked.claim((0, 1, 2))
        promote(manager, one)
        assert manager.order_load(one) is not None
        assert manager.num_free_nvme_slots == 3, "the own tail has moved, the head has not"
        manager.free(one)
        manager.check_integrity()
        assert manager.num_free_device_slots == 6
        for _ in range(2):
            manager.close_message()
        other = manager.parked.claim((0, 1, 3))
        assert [manager.tier_of(block_id) for block_id in other] == [Tier.NVME] * 3

    def test_the_last_to_come_takes_it_off_nvme(self) -> None:
        manager = self.adopted()
        promote(manager, manager.parked.claim((0, 1, 2)))
        manager.parked.claim((0, 1, 3))
        manager.check_integrity()
        assert manager.num_free_nvme_slots == 5

    def test_a_bad_block_is_lost_to_both(self) -> None:
        manager = self.adopted()
        one = manager.parked.claim((0, 1, 2))
        done = land(manager, manager.order_promote(one), failed=(1,))
        assert done.lost_block_ids == (one[1],)
        assert manager.parked.num_valid((0, 1, 3)) == 1
        other = manager.parked.claim((0, 1, 3))
        assert other == one[:1]
        manager.check_integrity()
        manager.free(one)
        manager.free(other)
        assert manager.is_idle

    def test_others_may_find_it_by_its_hash_and_leave_it_there(self) -> None:
        manager = self.adopted()
        one = manager.parked.claim((0, 1, 2))
        manager.commit_hash(one[0], b"head")
        manager.free(one)
        found = manager.lookup_prefix([b"head"])
        manager.touch(found)
        promote(manager, found)
        manager.free(found)
        manager.check_integrity()
        assert manager.parked.num_valid((0, 1, 3)) == 3
        manager.parked.release((0, 1, 3))
        manager.check_integrity()
        assert manager.is_idle, "found by hash: cached"


def test_what_nobody_comes_for_is_free_again() -> None:
    manager = make_manager(device=4, host=4, nvme=4)
    adopt(manager, ParkedKV((0, 1), 4), ParkedKV((2,), 1))
    assert len(manager.parked) == 3
    manager.parked.release((0, 1))
    manager.parked.release((2,))
    manager.check_integrity()
    assert manager.is_idle
    assert manager.num_free_nvme_slots == 4


@pytest.mark.parametrize(
    ("parked", "fault"),
    [
        ([ParkedKV((0, 1), 2)], "2 tokens in 2 slots"),
        ([ParkedKV((0,), 3)], "3 tokens in 1 slots"),
        ([ParkedKV((4,), 1)], "slot 4 of a tier of 4"),
        ([ParkedKV((-1,), 1)], "slot -1"),
        ([ParkedKV((1,), 1), ParkedKV((1,), 1)], "slot 1 belongs to two"),
        ([ParkedKV((1, 2), 4), ParkedKV((2,), 2)], "slot 2 belongs to two"),
        ([ParkedKV((1, 1), 4)], "slot 1 belongs to two"),
    ],
)
def test_slots_that_cannot_be_adopted(parked: list[ParkedKV], fault: str) -> None:
    assert fault in (find_fault(parked, 4, BLOCK_TOKENS) or "")
    with pytest.raises(InvariantError, match="cannot be adopted"):
        make_manager(device=2, host=2, nvme=4).parked.adopt(parked, BLOCK_TOKENS)


def test_a_shared_full_head_is_no_fault() -> None:
    assert find_fault([ParkedKV((1, 2), 3), ParkedKV((1, 3), 4)], 4, BLOCK_TOKENS) is None


@pytest.mark.parametrize("seed", range(30))
def test_random_orders_of_coming_and_going(seed: int) -> None:
    """Requests with common heads come, are promoted, loaded, fail and go in any order."""
    generator = random.Random(seed)
    heads = [(0, 1), (2,), ()]
    parked = []
    for index in range(8):
        tail = tuple(range(3 + 2 * index, 3 + 2 * index + generator.randint(1, 2)))
        slots = generator.choice(heads) + tail
        parked.append(ParkedKV(slots, len(slots) * BLOCK_TOKENS - generator.randint(0, 1)))
    manager = make_manager(device=5, host=6, nvme=20, num_stages=1)
    adopt(manager, *parked)
    held: list[list[int]] = []
    for _ in range(200):
        action = generator.choice(["come", "promote", "load", "go", "not come"])
        blocks = generator.choice(held) if held else []
        if action == "come" and parked:
            held.append(manager.parked.claim(parked.pop().nvme_slots))
        elif action == "not come" and parked and generator.random() < 0.2:
            manager.parked.release(parked.pop().nvme_slots)
        elif action == "promote" and all(manager.tier_of(b) is not None for b in blocks):
            job = manager.order_promote(blocks)
            if job is not None:
                failed = (0,) if generator.random() < 0.2 else ()
                assert len(unpack_int32(job.source_slots)) == job.num_slots
                land(manager, job, failed)
        elif action == "load" and all(manager.is_on_host(b) for b in blocks):
            manager.order_load(blocks)
            manager.close_message()
            drain_loads(manager)
        elif action == "go" and held:
            held.remove(blocks)
            manager.free(blocks)
        manager.check_integrity()
    for one in parked:
        manager.parked.release(one.nvme_slots)
    for blocks in held:
        manager.free(blocks)
    manager.check_integrity()
    assert manager.is_idle


def drain_loads(manager: BlockManager) -> None:
    for copy in list(manager._pending.values()):
        manager.update_from_report(0, [CopyResult(copy.job_id, 100, 0.1)])
