"""Times by hand: stages that compute a step in one second, hops and copies of round lengths."""

import msgspec
import pytest
from pipemax_worker.contract.geometry import KVGeometry, Tier
from pipemax_worker.contract.messages import (
    ScheduledRequest,
    StageInput,
    StageReport,
    StepOutput,
)
from pipemax_worker.contract.transfers import CopyJob, pack_int32
from pipemax_worker.performance.batch_shape import BatchShape
from pipemax_worker.planner.simulated_links import LinkSpeeds
from pipemax_worker.planner.simulated_pipeline import HopSpeed, SimulatedPipeline, shape_of
from pipemax_worker.planner.virtual_clock import VirtualClock

SLOT_BYTES = 4096
SPEEDS = LinkSpeeds(
    host_to_device=SLOT_BYTES,
    device_to_host=SLOT_BYTES,
    host_to_nvme=SLOT_BYTES / 10,
    nvme_to_host=SLOT_BYTES / 10,
    host_share=100 * SLOT_BYTES,
)


class OneSecond:
    def __init__(self, num_stages: int) -> None:
        self.num_stages = num_stages
        self.alike = (0,) * num_stages

    def stage_seconds(self, shape: BatchShape, stage: int) -> float:
        return 1.0


def make(num_stages: int = 3, speeds: LinkSpeeds = SPEEDS, hop: float = 0.25) -> SimulatedPipeline:
    geometry = KVGeometry(1, "bfloat16", 1, 64, (1,) * num_stages, 99, 99, 99)
    assert geometry.slot_bytes(0) == SLOT_BYTES
    return SimulatedPipeline(
        VirtualClock(), geometry, OneSecond(num_stages), speeds, HopSpeed(hop, 1e30, 1)
    )


def row(request_id: int, *, is_fed_back: bool = False) -> ScheduledRequest:
    token_ids = None if is_fed_back else pack_int32([1])
    return ScheduledRequest(request_id, 0, 1, token_ids, pack_int32([0]), True)


def message(
    sequence: int, *rows: ScheduledRequest, micro_batch_id: int = 0, **copies: tuple[CopyJob, ...]
) -> StageInput:
    return StageInput(sequence, micro_batch_id, scheduled=rows, **copies)


def job(job_id: int, num_slots: int, source: Tier, target: Tier) -> CopyJob:
    slots = pack_int32(range(num_slots))
    return CopyJob(job_id, source, target, slots, slots)


def collect(pipeline: SimulatedPipeline) -> tuple[float, list[StageReport], list[StepOutput]]:
    events = pipeline.collect(1.0)
    reports = [event for event in events if isinstance(event, StageReport)]
    outputs = [event for event in events if isinstance(event, StepOutput)]
    return pipeline._clock.now(), reports, outputs


def test_a_message_takes_its_steps_and_its_hops() -> None:
    pipeline = make()
    pipeline.submit(message(0, row(7)))
    seconds, reports, outputs = collect(pipeline)
    assert seconds == 3 * 1.0 + 2 * 0.25
    assert [report.stage for report in reports] == [0, 1, 2]
    assert [report.wait_seconds for report in reports] == [0.0, 1.25, 2.5]
    assert [token.request_id for token in outputs[0].sampled] == [7]


def test_messages_follow_each_other_through_the_stages() -> None:
    pipeline = make()
    for sequence in range(3):
        pipeline.submit(message(sequence, row(sequence), micro_batch_id=sequence))
    ends = [collect(pipeline)[0] for _ in range(3)]
    assert ends == [3.5, 4.5, 5.5]


def test_a_fed_back_token_comes_from_the_last_stage() -> None:
    pipeline = make()
    pipeline.submit(message(0, row(1)))
    pipeline.submit(message(1, row(1, is_fed_back=True)))
    assert collect(pipeline)[0] == 3.5
    assert collect(pipeline)[0] == 3.5 + 0.25 + 3.5


def test_a_load_delays_the_message_after_it_and_is_reported() -> None:
    pipeline = make(num_stages=1)
    load = job(5, 3, Tier.HOST, Tier.DEVICE)
    pipeline.submit(message(0, row(1), prefetch=(load,)))
    pipeline.submit(message(1, row(2), micro_batch_id=1))
    seconds, (report,), _ = collect(pipeline)
    assert (seconds, report.stall_seconds, report.copies) == (1.0, 0.0, ())
    seconds, (report,), _ = collect(pipeline)
    assert (seconds, report.stall_seconds) == (4.0, 2.0)
    assert report.copies[0].job_id == 5
    assert report.copies[0].num_bytes == 3 * SLOT_BYTES
    assert report.copies[0].seconds == 3.0


def test_a_store_begins_after_the_forward_and_delays_nobody() -> None:
    pipeline = make(num_stages=1)
    store = job(5, 2, Tier.DEVICE, Tier.HOST)
    pipeline.submit(message(0, row(1), stores_after=(store,)))
    pipeline.submit(message(1, row(2), micro_batch_id=1))
    assert collect(pipeline)[0] == 1.0
    assert collect(pipeline)[0] == 2.0
    seconds, (report,), outputs = collect(pipeline)
    assert (seconds, outputs) == (3.0, [])
    assert report.copies[0].job_id == 5


def test_copies_of_one_link_queue_and_those_of_two_do_not() -> None:
    pipeline = make(num_stages=1)
    loads = (job(1, 1, Tier.HOST, Tier.DEVICE), job(2, 1, Tier.HOST, Tier.DEVICE))
    store = job(3, 1, Tier.DEVICE, Tier.HOST)
    pipeline.submit(message(0, row(1), prefetch=loads, stores_after=(store,)))
    assert collect(pipeline)[0] == 1.0
    seconds, (report,), _ = collect(pipeline)
    assert seconds == 2.0
    assert sorted(copy.job_id for copy in report.copies) == [2, 3]


def test_both_directions_share_the_memory_of_the_host() -> None:
    speeds = msgspec.structs.replace(SPEEDS, host_share=SLOT_BYTES)
    pipeline = make(num_stages=1, speeds=speeds)
    pipeline.submit(
        message(
            0,
            prefetch=(job(1, 2, Tier.HOST, Tier.DEVICE),),
            stores_after=(job(2, 2, Tier.DEVICE, Tier.HOST),),
        )
    )
    collect(pipeline)
    assert collect(pipeline)[0] == 2.0
    assert collect(pipeline)[0] == 4.0


def test_nvme_has_its_own_speed() -> None:
    pipeline = make(num_stages=2)
    pipeline.submit(message(0, background=(job(1, 2, Tier.HOST, Tier.NVME),)))
    seconds, reports, _ = collect(pipeline)
    assert seconds == 0.0
    seconds, reports, _ = collect(pipeline)
    assert seconds == pytest.approx(20.0)
    assert [report.num_tokens for report in reports] == [0, 0]


def test_nothing_to_wait_for_passes_the_timeout() -> None:
    pipeline = make()
    assert pipeline.collect(0.5) == ()
    assert pipeline._clock.now() == 0.5


def test_the_shape_is_that_of_the_rows() -> None:
    rows = (
        ScheduledRequest(1, 10, 1, None, b"", True),
        ScheduledRequest(2, 4, 3, pack_int32([1, 2, 3]), b"", False),
    )
    assert shape_of(message(0, *rows)) == BatchShape(4, 11 + 7, 2, 5 + 6 + 7)
