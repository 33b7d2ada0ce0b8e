"""The checker sees what it says it checks: each planted fault is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kit.kv_blocks import fill, fill_and_store, make_manager
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.errors import InvariantError
from pipemax_worker.kvcache.block_table import BlockTable


def lose_slot(table: BlockTable) -> None:
    table.pools[Tier.HOST].allocate(1)


def share_slot(table: BlockTable) -> None:
    table.blocks[1].slots[Tier.HOST] = table.blocks[0].slots[Tier.HOST]


def release_twice(table: BlockTable) -> None:
    table.pools[Tier.DEVICE].release(table.blocks[0].slots[Tier.DEVICE] or 0)


def count_wrongly(table: BlockTable) -> None:
    table.blocks[0].ref_count = -1


def pin_for_nobody(table: BlockTable) -> None:
    table.pools[Tier.NVME].pin([0])


def forget_pin(table: BlockTable) -> None:
    slot = table.blocks[2].slots[Tier.DEVICE]
    assert slot is not None
    table.pools[Tier.DEVICE].unpin([slot])


def list_wrongly(table: BlockTable) -> None:
    table.droppable[Tier.HOST].insert(0, True)


def list_a_ghost(table: BlockTable) -> None:
    table.droppable[Tier.DEVICE].insert(99, False)


def index_wrongly(table: BlockTable) -> None:
    table.prefix_index.insert(b"ghost", 99)


def move_unseen(table: BlockTable) -> None:
    del table.device_slots[0]


def miss_unseen(table: BlockTable) -> None:
    table.off_device.add(0)


def claim_content(table: BlockTable) -> None:
    table.blocks[0].copies[Tier.NVME] = 1


def be_ahead(table: BlockTable) -> None:
    table.blocks[0].copies[Tier.HOST] = 9


def lose_content(table: BlockTable) -> None:
    table.blocks[2].copies[Tier.DEVICE] = 0


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (lose_slot, "HOST: used \\+ free is 7 of 8"),
        (share_slot, "more than one owner"),
        (release_twice, "DEVICE slots .* more than one owner"),
        (count_wrongly, "block 0 has -1 references"),
        (pin_for_nobody, "NVME: pins"),
        (forget_pin, "listed wrongly|DEVICE: pins"),
        (list_wrongly, "block 0 is listed wrongly"),
        (list_a_ghost, "lists blocks that are gone"),
        (index_wrongly, "prefix index"),
        (move_unseen, "device slots of messages"),
        (miss_unseen, "missing blocks"),
        (claim_content, "content on NVME without a slot"),
        (be_ahead, "ahead of its content"),
        (lose_content, "no valid copy"),
    ],
)
def test_a_planted_fault_is_found(plant: Callable[[BlockTable], None], message: str) -> None:
    manager = make_manager(device=4, host=8, nvme=2)
    fill_and_store(manager, 2)
    manager.order_store(fill(manager, 1))
    manager.check_integrity()
    plant(manager._table)
    with pytest.raises(InvariantError, match=message):
        manager.check_integrity()
