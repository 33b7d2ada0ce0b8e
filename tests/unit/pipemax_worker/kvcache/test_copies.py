from __future__ import annotations

import pytest
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.transfers import CopyResult, unpack_int32
from pipemax_worker.errors import InvariantError
from pipemax_worker.kvcache.copies import PendingCopies


def test_jobs_are_numbered_and_carry_their_slots() -> None:
    pending = PendingCopies(1)
    jobs = [pending.add(Tier.HOST, Tier.DEVICE, [7, 8], [1, 1], [4, 5], [0, 2]) for _ in range(3)]
    assert [job.job_id for job in jobs] == [0, 1, 2]
    assert (jobs[0].source, jobs[0].target) == (Tier.HOST, Tier.DEVICE)
    assert unpack_int32(jobs[0].source_slots) == [4, 5]
    assert unpack_int32(jobs[0].target_slots) == [0, 2]
    assert len(pending) == 3


def test_a_copy_is_complete_when_every_stage_has_reported_it() -> None:
    pending = PendingCopies(3)
    pending.add(Tier.DEVICE, Tier.HOST, [7, 8, 9], [1, 1, 1], [4, 5, 6], [0, 1, 2])
    assert pending.report(2, CopyResult(0, num_bytes=100, seconds=0.1, failed=(2,))) is None
    assert pending.report(0, CopyResult(0, num_bytes=200, seconds=0.3)) is None
    copy = pending.report(1, CopyResult(0, num_bytes=300, seconds=0.2, failed=(0, 2)))
    assert copy is not None
    completed = copy.completed(lost_block_ids=[9])
    assert completed.job_id == 0
    assert (completed.source, completed.target) == (Tier.DEVICE, Tier.HOST)
    assert completed.block_ids == (7, 8, 9)
    assert completed.failed_block_ids == (7, 9)
    assert completed.lost_block_ids == (9,)
    assert completed.num_bytes == 600
    assert completed.seconds == 0.3
    assert len(pending) == 0


@pytest.mark.parametrize(
    ("stage", "job_id", "message"),
    [
        (0, 0, "reports copy 0 twice"),
        (1, 5, "stage 1 reports copy 5, which is not in flight"),
        (2, 0, "stage 2 reports copy 0, which is not in flight"),
        (-1, 0, "not in flight"),
    ],
)
def test_a_report_that_nobody_awaits_is_a_bug(stage: int, job_id: int, message: str) -> None:
    pending = PendingCopies(2)
    pending.add(Tier.DEVICE, Tier.HOST, [7], [1], [4], [0])
    pending.report(0, CopyResult(0, num_bytes=1, seconds=0.1))
    with pytest.raises(InvariantError, match=message):
        pending.report(stage, CopyResult(job_id, num_bytes=1, seconds=0.1))
