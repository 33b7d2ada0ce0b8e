"""Short sentences about a BlockManager, for table-like tests."""

from __future__ import annotations

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.transfers import CopyJob, CopyResult
from pipemax_worker.kvcache.block_manager import BlockManager
from pipemax_worker.kvcache.copies import CompletedCopy


def make_manager(device: int, host: int = 0, nvme: int = 0, num_stages: int = 2) -> BlockManager:
    return BlockManager({Tier.DEVICE: device, Tier.HOST: host, Tier.NVME: nvme}, num_stages)


def allocate(manager: BlockManager, num_blocks: int) -> list[int]:
    block_ids = manager.allocate(num_blocks)
    assert block_ids is not None
    return block_ids


def fill(manager: BlockManager, num_blocks: int, num_tokens: int = 2) -> list[int]:
    """New blocks, filled and not stored."""
    block_ids = allocate(manager, num_blocks)
    for block_id in block_ids:
        manager.mark_filled(block_id, num_tokens)
    return block_ids


def fill_and_store(manager: BlockManager, num_blocks: int, num_tokens: int = 2) -> list[int]:
    """New blocks with a reported HOST copy."""
    block_ids = fill(manager, num_blocks, num_tokens)
    land(manager, manager.order_store(block_ids))
    return block_ids


def park(manager: BlockManager, num_blocks: int) -> list[int]:
    """New blocks whose only copy is on NVME."""
    block_ids = fill_and_store(manager, num_blocks)
    land(manager, manager.order_demote(block_ids))
    manager.drop_device(block_ids)
    return block_ids


def land(manager: BlockManager, job: CopyJob | None, failed: tuple[int, ...] = ()) -> CompletedCopy:
    """Every stage reports the job; the last one says what failed."""
    assert job is not None
    num_stages = manager._pending.num_stages
    for stage in range(num_stages - 1):
        result = CopyResult(job.job_id, num_bytes=100, seconds=0.1)
        assert manager.update_from_report(stage, [result]) == []
    last = CopyResult(job.job_id, num_bytes=100, seconds=0.2, failed=failed)
    (completed,) = manager.update_from_report(num_stages - 1, [last])
    return completed
