from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from kit import policy_views
from pipemax_worker.engine.policies import POLICIES, build_policy
from pipemax_worker.engine.policies.fused import FusedPolicy
from pipemax_worker.engine.request_state import PreemptionKind
from pipemax_worker.engine.view import (
    Composition,
    LackingRequest,
    PreemptibleRequest,
    ReadyRequest,
    SchedulerView,
    WaitingRequest,
)
from pipemax_worker.errors import JobFileError
from pipemax_worker.performance.batch_shape import BatchShape


def predict(shape: BatchShape) -> float:
    return 0.001 * max(10, shape.num_tokens)


def make_view(**overrides: Any) -> SchedulerView:
    settings: dict[str, Any] = {
        "max_batched_tokens": 32,
        "micro_batch_sizes": (0, 0),
        "predict": predict,
    }
    return policy_views.make_view(**(settings | overrides))


def decode(request_id: int, num_new_blocks: int = 0) -> ReadyRequest:
    return ReadyRequest(request_id, 1, 20, num_new_blocks)


def prompt(request_id: int, num_remaining: int) -> ReadyRequest:
    return ReadyRequest(request_id, num_remaining, 0, 1)


def waiting(request_id: int, num_tokens: int, *, can_start: bool = True) -> WaitingRequest:
    return WaitingRequest(request_id, num_tokens, 0, -(-num_tokens // 4), can_start)


def compose(**overrides: Any) -> Composition:
    return FusedPolicy().compose(make_view(**overrides), now=0.0)


def test_every_decode_runs_and_prompts_fill_up_to_the_target() -> None:
    composition = compose(ready=(decode(1), prompt(2, 9), decode(3), prompt(4, 30)))
    assert composition.decode == (1, 3)
    assert composition.chunks == ((2, 9), (4, 5))


def test_decodes_above_the_target_leave_no_room_for_prompts() -> None:
    ready = (*(decode(request_id) for request_id in range(6)), prompt(9, 4))
    composition = compose(ready=ready, token_target=6)
    assert len(composition.decode) == 6
    assert composition.chunks == ()


def test_rows_are_limited_by_the_buffers_of_the_stages() -> None:
    ready = tuple(decode(request_id) for request_id in range(20))
    assert len(compose(ready=ready, max_num_requests=8).decode) == 8
    ready = (*(decode(request_id) for request_id in range(7)), prompt(8, 1 + 1), prompt(9, 2))
    composition = compose(ready=ready, max_num_requests=8)
    assert len(composition.decode) + len(composition.chunks) == 8


def test_the_same_view_gives_the_same_composition() -> None:
    view = make_view(ready=(decode(1), prompt(2, 9)), waiting=(waiting(5, 9),))
    assert FusedPolicy().compose(view, 0.0) == FusedPolicy().compose(view, 0.0)


def test_admission_follows_the_queue_while_tokens_last() -> None:
    composition = compose(waiting=(waiting(1, 10), waiting(2, 10), waiting(3, 10)))
    assert composition.admit == (1, 2)
    assert composition.chunks == ((1, 10), (2, 6))


def test_admission_stops_at_the_first_that_does_not_fit() -> None:
    queue = (waiting(1, 4), waiting(2, 12), waiting(3, 4))
    assert compose(waiting=queue, num_unreserved_blocks=3).admit == (1,)


def test_who_must_be_loaded_first_is_admitted_without_a_chunk() -> None:
    composition = compose(waiting=(waiting(1, 4, can_start=False), waiting(2, 4)))
    assert composition.admit == (1, 2)
    assert composition.chunks == ((2, 4),)


def test_where_room_is_scarce_a_micro_batch_slower_than_the_mean_admits_nobody() -> None:
    scarce = {"waiting": (waiting(1, 4),), "num_unreserved_blocks": 7}  # 8 would fill both steps
    assert compose(micro_batch_seconds=(0.02, 0.01), **scarce).admit == ()
    assert compose(micro_batch_seconds=(0.01, 0.02), **scarce).admit == (1,)
    assert compose(micro_batch_seconds=(0.02, 0.01), waiting=(waiting(1, 4),)).admit == (1,)


def test_admission_stops_where_the_forecast_peak_does_not_fit() -> None:
    def forecast(requests: Sequence[tuple[int, int]]) -> int:
        return 300 + sum(tokens + expected for tokens, expected in requests)

    queue = tuple(msgspec.structs.replace(waiting(n, 4), num_expected_tokens=26) for n in range(9))
    composition = compose(waiting=queue, forecast=forecast, num_live_blocks=100)
    assert composition.admit == (0, 1, 2)  # 30 tokens each, room for 400


def test_one_request_runs_whatever_the_forecast_says_of_it() -> None:
    queue = (waiting(1, 4), waiting(2, 4))
    composition = compose(
        waiting=queue, forecast=lambda requests: 1000 * len(requests), num_live_blocks=10
    )
    assert composition.admit == (1,)


def test_a_short_job_is_spread_evenly() -> None:
    queue = tuple(waiting(request_id, 1) for request_id in range(6))
    composition = compose(
        waiting=queue,
        num_unfinished=6,
        micro_batch_sizes=(0, 0, 0),
        micro_batch_seconds=(0.01,) * 3,
    )
    assert composition.admit == (0, 1)


def test_the_prefetch_budget_is_step_time_times_bandwidth() -> None:
    composition = compose(ready=tuple(decode(request_id) for request_id in range(4)))
    assert composition.prefetch_budget_bytes == 10_000  # 10 ms at 1 MB/s


def test_prefetch_fills_the_budget_to_the_block() -> None:
    lacking = (LackingRequest(1, 4), LackingRequest(2, 9), LackingRequest(3, 1))
    assert compose(lacking=lacking).prefetch == ((1, 4), (2, 6))


def test_a_slow_link_still_moves_a_block() -> None:
    lacking = (LackingRequest(1, 4),)
    assert compose(lacking=lacking, load_bytes_per_second=1.0).prefetch == ((1, 1),)


YOUNG = PreemptibleRequest(request_id=9, num_own_blocks=5, num_computed_tokens=20)
OLDER = PreemptibleRequest(request_id=8, num_own_blocks=5, num_computed_tokens=20)


def test_short_of_blocks_the_youngest_makes_room() -> None:
    composition = compose(
        ready=(decode(1, 1), decode(2, 1), decode(9, 1)),
        num_allocatable_blocks=1,
        preemptible=(YOUNG, OLDER),
        waiting=(waiting(20, 4),),
    )
    assert composition.preempt == ((9, PreemptionKind.RECOMPUTE),)
    assert composition.decode == (1, 2)
    assert composition.admit == ()


def test_as_many_are_preempted_as_it_takes() -> None:
    ready = tuple(decode(request_id, 1) for request_id in range(7))
    composition = compose(ready=ready, num_allocatable_blocks=0, preemptible=(YOUNG, OLDER))
    assert [request_id for request_id, _ in composition.preempt] == [9, 8]


def test_blocks_on_their_way_back_are_waited_for() -> None:
    composition = compose(
        ready=(decode(1, 1),),
        num_allocatable_blocks=0,
        num_returning_blocks=1,
        preemptible=(YOUNG,),
    )
    assert composition.preempt == ()


def test_a_policy_is_found_by_name() -> None:
    for name in POLICIES:
        assert build_policy(name).compose(make_view(), 0.0) is not None


def test_an_unknown_policy_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(JobFileError, match=r"'best' is unknown; choose one of .*fused"):
        build_policy("best")
