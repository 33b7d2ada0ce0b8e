"""Skipping unchanged decode steps changes nothing: each run is compared with the long way."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.simulations import make_settings
from pipemax_worker.contract.request import FinishedRequest
from pipemax_worker.contract.statistics import EngineStatistics
from pipemax_worker.engine.output_lengths import LengthPrediction
from pipemax_worker.performance.batch_shape import BatchShape
from pipemax_worker.performance.correction import CorrectedEstimator
from pipemax_worker.planner.simulation import Simulation, SimulationResult, SimulationSettings
from pipemax_worker.planner.workload import Workload

LONG = Workload(((9, 120), (4, 150), (17, 90), (5, 110), (8, 130), (30, 100)))
Finished = list[tuple[int, int, float]]


def run(
    settings: SimulationSettings, work: Workload, *, fast_forward: bool
) -> tuple[SimulationResult, Finished, int]:
    """(result, (request, output tokens, virtual time) as they finish, turns skipped)."""
    settings = msgspec.structs.replace(settings, fast_forward=fast_forward)
    simulation = Simulation(settings, work)
    finished: Finished = []
    step = simulation.step

    def record() -> list[FinishedRequest]:
        ended = step()
        now = simulation.clock.now()
        finished.extend((one.key.offset, len(one.token_ids), now) for one in ended)
        return ended

    simulation.step = record  # type: ignore[method-assign]
    result = simulation.run()
    simulation.manager.check_integrity()
    return result, finished, simulation.fast_forward.num_turns


def check_same(settings: SimulationSettings, work: Workload) -> int:
    """How many turns were skipped."""
    fast = run(settings, work, fast_forward=True)
    slow = run(settings, work, fast_forward=False)
    assert fast[:2] == slow[:2]
    assert slow[2] == 0
    return fast[2]


@pytest.mark.parametrize("policy", ["fused", "vllm"])
@pytest.mark.parametrize("run_ahead", [True, False])
def test_most_turns_of_long_outputs_are_skipped(policy: str, run_ahead: bool) -> None:
    # A step holds one prompt here, so that no micro-batch is empty, with any policy.
    settings = make_settings(
        policy=policy, device=300, run_ahead=run_ahead, max_batched_tokens=30, num_stages=2
    )
    num_skipped = check_same(settings, LONG)
    result, _, _ = run(settings, LONG, fast_forward=False)
    assert num_skipped > result.num_steps / 2


@pytest.mark.parametrize("policy", ["fused", "vllm"])
def test_turns_are_skipped_while_others_wait_for_room(policy: str) -> None:
    work = Workload(LONG.lengths * 5)
    assert check_same(make_settings(policy=policy, device=150), work) > 100


def test_preempted_requests_return_as_ever() -> None:
    settings = make_settings(policy="vllm", device=80, num_stages=2)
    result, _, _ = run(settings, LONG, fast_forward=False)
    assert result.statistics.num_preemptions_by_recompute > 0
    assert check_same(settings, LONG) > 0


def test_it_may_end_with_nothing_in_flight() -> None:
    settings = make_settings(
        num_stages=2, device=32, look_ahead=2, run_ahead=False, max_batched_tokens=8
    )
    check_same(settings, Workload(((1, 9), (1, 5), (1, 8))))


@pytest.mark.parametrize(
    "settings",
    [
        make_settings(policy="fused", device=60, host=200),
        make_settings(policy="fused", device=300, prefix_sharing=True),
        make_settings(policy="tdpipe", device=300),
        make_settings(policy="pipemax", device=60, host=200),
    ],
)
def test_where_turns_do_more_nothing_is_skipped(settings: SimulationSettings) -> None:
    assert check_same(settings, Workload(LONG.lengths[:3])) == 0


@st.composite
def runs(draw: st.DrawFn) -> tuple[SimulationSettings, Workload]:
    longest = draw(st.sampled_from([3, 20, 80]))
    lengths = draw(
        st.lists(st.tuples(st.integers(1, 40), st.integers(1, longest)), min_size=1, max_size=40)
    )
    settings = make_settings(
        policy=draw(st.sampled_from(["fused", "fused", "vllm", "vllm", "pipemax", "tdpipe"])),
        num_stages=draw(st.sampled_from([1, 2, 4])),
        device=draw(st.one_of(st.integers(32, 70), st.integers(70, 600))),
        look_ahead=draw(st.sampled_from([1, 2, 1024])),
        run_ahead=draw(st.booleans()),
        growth_reserve_ratio=draw(st.sampled_from([0.0, 1.0])),
        max_batched_tokens=draw(st.sampled_from([8, 32, 100])),
        target_batched_tokens=draw(st.sampled_from([None, 5])),
        max_num_requests=draw(st.sampled_from([2, 5, 64])),
        max_num_running=draw(st.sampled_from([None, 3])),
        feedback_depth=draw(st.sampled_from([1, 3, 64])),
        length_prediction=draw(st.sampled_from(LengthPrediction)),
        balances_counts=draw(st.booleans()),
    )
    return settings, Workload(tuple(lengths), draw(st.sampled_from([None, 10, 80])))


@given(runs())
def test_times_counters_and_order_are_the_same(case: tuple[SimulationSettings, Workload]) -> None:
    check_same(*case)


@pytest.mark.parametrize("policy", ["fused", "vllm"])
@pytest.mark.parametrize("hidden", [None, 160])
@pytest.mark.parametrize("device", [60, 90, 2000])
def test_who_looks_on_the_way_sees_the_same(policy: str, hidden: int | None, device: int) -> None:
    """Every counter, queue and tier when a request ends, where blocks are short and where not."""
    settings = make_settings(policy=policy, device=device, num_stages=2, look_ahead=4)
    work = Workload(LONG.lengths * 3, hidden)

    def look(*, fast_forward: bool) -> list[EngineStatistics]:
        simulation = Simulation(msgspec.structs.replace(settings, fast_forward=fast_forward), work)
        step, looks = simulation.step, []

        def record() -> list[FinishedRequest]:
            ended = step()
            if ended:
                simulation.fast_forward.write()
                looks.append(simulation.engine.statistics)
            return ended

        simulation.step = record  # type: ignore[method-assign]
        simulation.run()
        return looks

    looks = look(fast_forward=True)
    assert looks == look(fast_forward=False)
    is_short = device < 2000
    assert (looks[-1].num_preemptions_by_recompute > 0) is is_short


@given(runs(), st.sets(st.integers(0, 40), max_size=8))
def test_the_engine_can_go_on_at_any_time(
    case: tuple[SimulationSettings, Workload], ends: set[int]
) -> None:
    settings, work = case
    slow = run(settings, work, fast_forward=False)
    simulation = Simulation(settings, work)
    step, numbers = simulation.step, itertools.count()

    def step_and_stop() -> list[FinishedRequest]:
        if next(numbers) in ends:
            simulation.fast_forward.end()
            simulation.manager.check_integrity()
            return simulation.engine.step()
        return step()

    simulation.step = step_and_stop  # type: ignore[method-assign]
    assert simulation.run() == slow[0]


def test_all_turns_of_a_long_run_are_skipped_though_somebody_ends_in_most() -> None:
    lengths = tuple((3 + n * 7 % 30, 5 + n * 11 % 40) for n in range(150))
    settings = make_settings(device=3000, max_batched_tokens=100)
    num_skipped = check_same(settings, Workload(lengths))
    result, _, _ = run(settings, Workload(lengths), fast_forward=False)
    assert num_skipped > 0.9 * result.num_steps


def test_confirming_steps_at_once_is_observing_each() -> None:
    cost = Simulation(make_settings(), LONG).estimator._prior
    one_by_one, at_once = CorrectedEstimator(cost), CorrectedEstimator(cost)
    shape = BatchShape(6, 60, 6)
    for _ in range(3):
        for stage in range(cost.num_stages):
            one_by_one.observe(shape, stage, cost.stage_seconds(shape, stage))
    at_once.confirm_all(6, 3)
    for estimator in (one_by_one, at_once):  # what is learned from now on weighs the same
        estimator.observe(shape, 1, 2 * cost.stage_seconds(shape, 1))
    assert at_once.predict(shape) == one_by_one.predict(shape)
    assert at_once.error_ratio == one_by_one.error_ratio
    assert at_once.accuracy == one_by_one.accuracy
