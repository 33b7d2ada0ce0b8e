import msgspec
import pytest
from pipemax_worker.engine.preemption import (
    cheaper_preemption,
    choose_preemptions,
    move_seconds,
    recompute_seconds,
)
from pipemax_worker.engine.request_state import PreemptionKind
from pipemax_worker.engine.view import PreemptibleRequest, SchedulerView
from pipemax_worker.performance.batch_shape import BatchShape


def predict(shape: BatchShape) -> float:
    return 0.002 * shape.num_tokens


VIEW = SchedulerView(
    micro_batch_id=0,
    ready=(),
    waiting=(),
    lacking=(),
    preemptible=(),
    token_target=10,
    max_batched_tokens=10,
    max_num_requests=8,
    block_tokens=4,
    slot_bytes=1000,
    num_unfinished=1,
    num_unreserved_blocks=0,
    num_allocatable_blocks=0,
    num_returning_blocks=0,
    num_nvme_blocks=100,
    micro_batch_sizes=(1,),
    micro_batch_seconds=(0.01,),
    load_bytes_per_second=1e6,
    demote_bytes_per_second=1e6,
    promote_bytes_per_second=2e6,
    predict=predict,
)
CANDIDATE = PreemptibleRequest(request_id=3, num_own_blocks=6, num_computed_tokens=23)


def test_moving_costs_a_write_and_a_read() -> None:
    assert move_seconds(VIEW, CANDIDATE) == pytest.approx(6e-3 + 3e-3)


def test_recomputing_costs_its_prefill() -> None:
    assert recompute_seconds(VIEW, CANDIDATE) == pytest.approx(0.002 * 23)


def test_the_cheaper_way_is_taken() -> None:
    assert cheaper_preemption(VIEW, CANDIDATE, 100) is PreemptionKind.MOVE
    slow_disk = msgspec.structs.replace(VIEW, demote_bytes_per_second=1e5)
    assert cheaper_preemption(slow_disk, CANDIDATE, 100) is PreemptionKind.RECOMPUTE


def test_without_room_on_nvme_it_is_computed_again() -> None:
    assert cheaper_preemption(VIEW, CANDIDATE, 5) is PreemptionKind.RECOMPUTE


def test_who_owns_nothing_has_nothing_to_move() -> None:
    sharer = PreemptibleRequest(request_id=3, num_own_blocks=0, num_computed_tokens=23)
    assert cheaper_preemption(VIEW, sharer, 100) is PreemptionKind.RECOMPUTE


def test_room_on_nvme_is_given_out_once() -> None:
    view = msgspec.structs.replace(
        VIEW,
        num_nvme_blocks=8,
        preemptible=(CANDIDATE, msgspec.structs.replace(CANDIDATE, request_id=2)),
    )
    assert choose_preemptions(view, 7) == (
        (3, PreemptionKind.MOVE),
        (2, PreemptionKind.RECOMPUTE),
    )


def test_nobody_is_preempted_for_nothing() -> None:
    view = msgspec.structs.replace(VIEW, preemptible=(CANDIDATE,))
    assert choose_preemptions(view, 0) == ()
