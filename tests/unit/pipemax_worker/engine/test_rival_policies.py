"""The rivals' rules, each on a view made for it."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from kit import policy_views
from pipemax_worker.engine.policies.host_pool import PoolTarget, choose_from_pool
from pipemax_worker.engine.policies.pipemax import PipeMaxPolicy
from pipemax_worker.engine.policies.tdpipe import TDPipePolicy, steal_work
from pipemax_worker.engine.policies.vllm import VLLMPolicy
from pipemax_worker.engine.request_state import PreemptionKind
from pipemax_worker.engine.view import (
    Phase,
    PolicyState,
    PooledRequest,
    PreemptibleRequest,
    ReadyRequest,
    SchedulerView,
    WaitingRequest,
)
from pipemax_worker.performance.batch_shape import BatchShape

DECODE = PolicyState(Phase.DECODE)


def predict(shape: BatchShape) -> float:
    """The paper's form: 1 ms, 0.1 ms a token, 1 us a position."""
    return 1e-3 + 1e-4 * shape.num_tokens + 1e-6 * shape.num_kv_tokens


def make_view(**overrides: Any) -> SchedulerView:
    settings: dict[str, Any] = {
        "max_batched_tokens": 16,
        "micro_batch_sizes": (1, 1),
        "predict": predict,
        "num_held_blocks": 10,
        "num_device_blocks": 50,
        "next_micro_batch_id": 1,
    }
    return policy_views.make_view(**(settings | overrides))


def decode(request_id: int, *, is_idle: bool = True) -> ReadyRequest:
    return ReadyRequest(request_id, 1, 20, 0, is_idle)


def prompt(request_id: int, num_remaining: int) -> ReadyRequest:
    return ReadyRequest(request_id, num_remaining, 0, 1)


def waiting(request_id: int, num_tokens: int, num_expected: int = 8) -> WaitingRequest:
    return WaitingRequest(request_id, num_tokens, 0, -(-num_tokens // 4), True, num_expected)


def pooled(request_id: int, num_blocks: int, micro_batch_id: int = 1) -> PooledRequest:
    return PooledRequest(request_id, micro_batch_id, num_blocks, 4 * num_blocks)


# --- vLLM


def test_vllm_decodes_first_and_fills_up_with_prompts() -> None:
    view = make_view(ready=(prompt(1, 9), decode(2)), waiting=(waiting(5, 30),))
    composition = VLLMPolicy().compose(view, 0.0)
    assert composition.decode == (2,)
    assert composition.chunks == ((1, 9), (5, 6))
    assert composition.admit == (5,)


def test_vllm_does_not_balance() -> None:
    view = make_view(waiting=(waiting(1, 4),), micro_batch_seconds=(9.0, 0.1))
    assert VLLMPolicy().compose(view, 0.0).admit == (1,)


def test_vllm_never_moves_anything() -> None:
    young = PreemptibleRequest(9, 5, 20)
    view = make_view(
        ready=(ReadyRequest(1, 1, 20, 1),),
        num_allocatable_blocks=0,
        num_nvme_blocks=100,
        preemptible=(young,),
        pool=(pooled(4, 2),),
    )
    composition = VLLMPolicy().compose(view, 0.0)
    assert composition.preempt == ((9, PreemptionKind.RECOMPUTE),)
    assert composition.prefetch == ()


# --- TD-Pipe


def room_for(num_tokens: int) -> Any:
    def forecast(requests: Sequence[tuple[int, int]]) -> int:
        return 360 - num_tokens + sum(tokens + expected for tokens, expected in requests)

    return forecast  # of 400 tokens of KV, 0.9 may be filled


def test_tdpipe_prefills_alone_while_the_peak_fits() -> None:
    queue = (waiting(1, 4), waiting(2, 4), waiting(3, 4))
    view = make_view(ready=(decode(7),), waiting=queue, forecast=room_for(24))
    composition = TDPipePolicy().compose(view, 0.0)
    assert composition.admit == (1, 2)  # 12 tokens each, two fit
    assert composition.decode == ()


def test_tdpipe_decodes_once_nothing_more_fits() -> None:
    view = make_view(ready=(decode(7),), waiting=(waiting(1, 4),), forecast=room_for(0))
    composition = TDPipePolicy().compose(view, 0.0)
    assert (composition.admit, composition.decode) == ((), (7,))
    assert composition.state is not None
    assert composition.state.phase is Phase.DECODE


def test_tdpipe_returns_to_prefill_when_decoding_has_become_slow() -> None:
    queue = tuple(waiting(n, 16) for n in range(40))
    few = make_view(ready=(decode(7),), waiting=queue, forecast=room_for(360), state=DECODE)
    composition = TDPipePolicy().compose(few, 0.0)
    assert composition.state is not None
    assert composition.state.phase is Phase.PREFILL
    many = make_view(
        ready=(decode(7),),
        waiting=queue,
        forecast=room_for(360),
        state=DECODE,
        micro_batch_sizes=(192, 192),
    )
    composition = TDPipePolicy().compose(many, 0.0)
    assert composition.state is not None
    assert composition.state.phase is Phase.DECODE


def test_tdpipe_closes_a_message_with_the_prompt_that_fills_it() -> None:
    queue = tuple(waiting(n, 100) for n in range(4))
    view = make_view(waiting=queue, forecast=room_for(360), max_batched_tokens=512)
    composition = TDPipePolicy().compose(msgspec.structs.replace(view, num_live_blocks=400), 0.0)
    assert composition.chunks == ((0, 100), (1, 100))


def test_tdpipe_goes_on_decoding_as_long_as_the_cache_is_nearly_full() -> None:
    """192 requests a micro-batch do not fit here: ten that fill the cache are the peak."""
    queue = tuple(waiting(n, 16) for n in range(40))
    full = make_view(
        ready=(decode(7),),
        waiting=queue,
        forecast=room_for(60),
        state=DECODE,
        micro_batch_sizes=(5, 5),
        num_held_blocks=95,
    )
    composition = TDPipePolicy().compose(full, 0.0)
    assert composition.state is not None
    assert composition.state.phase is Phase.DECODE
    drained = msgspec.structs.replace(full, micro_batch_sizes=(1, 1), num_held_blocks=19)
    composition = TDPipePolicy().compose(drained, 0.0)
    assert composition.state is not None
    assert composition.state.phase is Phase.PREFILL


def test_work_above_the_mean_goes_to_the_smallest() -> None:
    view = make_view(micro_batch_sizes=(6, 1, 2))
    rows = [decode(request_id) for request_id in range(6)]
    assert steal_work(view, rows) == ((0, 1), (1, 1), (2, 2))
    assert steal_work(make_view(micro_batch_sizes=(2, 3)), rows) == ()


def test_who_has_a_row_in_flight_is_not_stolen() -> None:
    view = make_view(micro_batch_sizes=(4, 0))
    rows = [decode(1, is_idle=False), decode(2), decode(3, is_idle=False), decode(4)]
    assert steal_work(view, rows) == ((2, 1), (4, 1))


# --- the paper's


def test_pipemax_prefills_until_the_host_is_full() -> None:
    queue = tuple(waiting(n, 4) for n in range(4))
    below = make_view(ready=(decode(7),), waiting=queue, num_held_blocks=50)
    assert PipeMaxPolicy().compose(below, 0.0).admit == (0, 1, 2, 3)
    marked = make_view(ready=(decode(7),), waiting=queue, num_held_blocks=88)
    assert PipeMaxPolicy().compose(marked, 0.0).admit == (0, 1)
    full = make_view(ready=(decode(7),), waiting=queue, num_held_blocks=90)
    composition = PipeMaxPolicy().compose(full, 0.0)
    assert (composition.admit, composition.decode) == ((), (7,))


@pytest.mark.parametrize(("num_held", "phase"), [(51, Phase.DECODE), (50, Phase.PREFILL)])
def test_pipemax_decodes_until_what_is_alive_fits_the_gpus(num_held: int, phase: Phase) -> None:
    view = make_view(
        ready=(decode(7),), waiting=(waiting(1, 4),), num_held_blocks=num_held, state=DECODE
    )
    composition = PipeMaxPolicy().compose(view, 0.0)
    assert composition.state is not None
    assert composition.state.phase is phase


def test_pipemax_loads_what_the_step_has_time_for() -> None:
    """1.12 ms at 10 MB/s and 1,000 bytes a block: eleven blocks, from any micro-batch."""
    pool = (pooled(1, 4), pooled(2, 4, micro_batch_id=0), pooled(3, 9))
    view = make_view(ready=(decode(7),), pool=pool, load_bytes_per_second=1e7, state=DECODE)
    composition = PipeMaxPolicy().compose(view, 0.0)
    assert composition.prefetch_budget_bytes == 11_210
    assert dict(composition.prefetch) in ({1: 4, 2: 4}, {1: 4})
    assert all(target == 1 for _, target in composition.transfer)


def choose(pool: Sequence[PooledRequest], num_blocks: int, seconds: float = 0.0) -> list[int]:
    target = PoolTarget(seconds, BatchShape(4, 80, 4), predict)
    return sorted(entry.request_id for entry in choose_from_pool(pool, num_blocks, target))


def test_the_pool_gives_short_requests_first() -> None:
    pool = [pooled(1, 9), pooled(2, 2), pooled(3, 3), pooled(4, 20)]
    assert choose(pool, 5) == [2, 3]


def test_one_swap_fills_the_bytes_that_are_left() -> None:
    pool = [pooled(1, 2), pooled(2, 3), pooled(3, 5)]
    assert choose(pool, 7) == [1, 3]


def test_a_step_that_is_long_enough_takes_no_more_requests() -> None:
    base = predict(BatchShape(4, 80, 4))
    pool = [pooled(n, 1) for n in range(20)]
    assert len(choose(pool, 20, base + 2.5e-4)) <= 3


@pytest.mark.parametrize("num_blocks", [1, 3, 8, 30])
def test_the_choice_never_exceeds_the_budget_but_for_one(num_blocks: int) -> None:
    pool = [pooled(n, 2 + n % 5) for n in range(30)]
    target = PoolTarget(0.0, BatchShape(0, 0, 0), predict)
    chosen = choose_from_pool(pool, num_blocks, target)
    total = sum(entry.num_missing_blocks for entry in chosen)
    assert total <= num_blocks or len(chosen) == 1
    assert len({entry.request_id for entry in chosen}) == len(chosen)
