"""Switches that the study turns: each does what it says, and nothing where it is off."""

import pytest
from kit.policy_views import make_view
from kit.simulations import make_settings
from pipemax_worker.engine.policies.composing import prefetch_budget_bytes
from pipemax_worker.engine.policies.fused import FusedPolicy
from pipemax_worker.engine.view import WaitingRequest
from pipemax_worker.performance.batch_shape import BatchShape
from pipemax_worker.planner.simulation import SimulationResult, simulate
from pipemax_worker.planner.workload import Workload

SHAPE = BatchShape(8, 800, 8)


def predict(shape: BatchShape) -> float:
    return 1e-3 * shape.num_kv_tokens


def run(policy: str, **scheduler: object) -> SimulationResult:
    settings = make_settings(policy=policy, device=60, host=400, look_ahead=16, **scheduler)
    work = Workload(tuple((8 + 9 * (n % 4), 12 + 5 * (n % 3)) for n in range(60)))
    return simulate(settings, work)


def test_a_static_budget_looks_at_no_time() -> None:
    view = make_view(micro_batch_sizes=(1,), max_batched_tokens=16, predict=predict)
    assert prefetch_budget_bytes(view, SHAPE) == int(0.8 * 1e6)
    fixed = make_view(
        micro_batch_sizes=(1,), max_batched_tokens=16, predict=predict, static_prefetch_bytes=5000
    )
    assert prefetch_budget_bytes(fixed, SHAPE) == 5000


def test_a_static_budget_is_a_share_of_a_stages_tier() -> None:
    config = make_settings(device=60, static_prefetch_ratio=0.25).scheduler
    assert config.static_prefetch_bytes == 15 * config.slot_bytes
    assert make_settings(device=60).scheduler.static_prefetch_bytes is None


def test_counts_weigh_requests() -> None:
    view = make_view(micro_batch_sizes=(1,), max_batched_tokens=16, predict=predict)
    assert view.weigh(SHAPE) == pytest.approx(0.8)
    counting = make_view(
        micro_batch_sizes=(1,), max_batched_tokens=16, predict=predict, balances_counts=True
    )
    assert counting.weigh(SHAPE) == 8.0


def test_who_has_fewer_requests_may_admit_though_its_step_is_longer() -> None:
    waiting = (WaitingRequest(1, 4, 0, 2, True, 4),)
    common = {"micro_batch_id": 0, "waiting": waiting, "max_batched_tokens": 16}
    common |= {"predict": predict, "num_live_blocks": 4, "micro_batch_sizes": (1, 3)}
    by_time = make_view(**common, micro_batch_seconds=(0.03, 0.01))
    assert FusedPolicy().compose(by_time, 0.0).admit == ()
    by_count = make_view(**common, micro_batch_seconds=(1.0, 3.0), balances_counts=True)
    assert FusedPolicy().compose(by_count, 0.0).admit == (1,)


@pytest.mark.parametrize("policy", ["fused", "pipemax"])
def test_every_request_ends_whatever_is_switched_off(policy: str) -> None:
    whole = run(policy)
    static = run(policy, static_prefetch_ratio=0.05)
    counted = run(policy, balances_counts=True)
    assert [r.num_requests for r in (whole, static, counted)] == [60, 60, 60]
    assert static.seconds != whole.seconds
