"""The checker sees what it says it checks: each planted fault is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kit.kv_blocks import fill, fill_and_store, make_manager
from pipemax_worker.errors import InvariantError
from pipemax_worker.kvcache.block_table import BlockTable


def lose_slot(table: BlockTable) -> None:
    table.host.pool.allocate(1)


def share_slot(table: BlockTable) -> None:
    table.host.slots[1] = table.host.slots[0]


def release_twice(table: BlockTable) -> None:
    table.device.pool.release(table.device.slots[0])


def count_wrongly(table: BlockTable) -> None:
    table.blocks[0].ref_count = -1


def pin_for_nobody(table: BlockTable) -> None:
    table.nvme.pool.pin(99, [0])


def forget_pin(table: BlockTable) -> None:
    table.device.pool.unpin(1)


def list_wrongly(table: BlockTable) -> None:
    table.host.droppable.insert(0, True)


def list_a_ghost(table: BlockTable) -> None:
    table.device.droppable.insert(99, False)


def index_wrongly(table: BlockTable) -> None:
    table.prefix_index.insert(b"ghost", 99)


def outlive_its_block(table: BlockTable) -> None:
    table.host.slots[99] = 7


def count_as_cached(table: BlockTable) -> None:
    table.cached.add(0)


def count_cached_slots_wrongly(table: BlockTable) -> None:
    table.device.num_cached += 1


def claim_content(table: BlockTable) -> None:
    table.nvme.valid.add(0)


def claim_device_content(table: BlockTable) -> None:
    table.device.valid.add(0)


def be_ahead(table: BlockTable) -> None:
    table.host.incoming[0] = 9


def lose_content(table: BlockTable) -> None:
    table.device.pool.release(table.device.slots.pop(2))


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
        (outlive_its_block, "slots of blocks that are gone"),
        (count_as_cached, "cached"),
        (count_cached_slots_wrongly, "counted as 1"),
        (claim_device_content, "counted twice"),
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
