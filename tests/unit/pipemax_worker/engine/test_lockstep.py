"""What lock-step rests on: policies that need not see its rows, blocks that are only counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.policy_views import make_view
from kit.simulations import make_settings
from pipemax_worker.engine.admission import Admission
from pipemax_worker.engine.config import HostEviction
from pipemax_worker.engine.owed_blocks import OwedBlocks
from pipemax_worker.engine.policies import build_policy
from pipemax_worker.engine.policies.composing import rows_that_stay
from pipemax_worker.engine.turn_counter import TurnCounter
from pipemax_worker.engine.view import (
    PreemptibleRequest,
    ReadyRequest,
    SchedulerView,
    SteadyPolicy,
    WaitingRequest,
)
from pipemax_worker.performance.batch_shape import BatchShape
from pipemax_worker.planner.simulation import Simulation
from pipemax_worker.planner.workload import Workload

WORK = Workload(tuple((3 + 5 * (n % 7), 20 + 9 * (n % 11)) for n in range(30)))


def predict(shape: BatchShape) -> float:
    return 0.001 * max(10, shape.num_tokens)


@st.composite
def views(draw: st.DrawFn) -> SchedulerView:
    """Rows that decode, some of which need a block, and prompts; others wait."""
    remaining = draw(st.lists(st.sampled_from([1, 1, 1, 2, 9]), max_size=7))
    ready = tuple(
        ReadyRequest(number, num, 20 + number, int(draw(st.booleans())))
        for number, num in enumerate(remaining)
    )
    waiting = tuple(
        WaitingRequest(100 + number, num, 0, -(-num // 4), True, 5)
        for number, num in enumerate(draw(st.lists(st.integers(1, 12), max_size=3)))
    )
    return make_view(
        ready=ready,
        waiting=waiting,
        max_batched_tokens=draw(st.sampled_from([16, 32])),
        num_allocatable_blocks=draw(st.integers(0, 6)),
        preemptible=tuple(PreemptibleRequest(row.request_id, 2, 30) for row in reversed(ready[1:])),
        num_unreserved_blocks=draw(st.integers(0, 30)),
        micro_batch_sizes=(len(ready), 3),
        predict=predict,
    )


@pytest.mark.parametrize("name", ["fused", "vllm"])
@given(view=views(), num_hidden=st.integers(0, 7))
def test_rows_that_need_nothing_may_be_a_number(
    name: str, view: SchedulerView, num_hidden: int
) -> None:
    policy = build_policy(name)
    assert isinstance(policy, SteadyPolicy)
    whole = policy.compose(view, 0.0)
    preempted = {request_id for request_id, _ in whole.preempt}
    hidden = [
        row
        for row in view.ready
        if row.num_remaining_tokens == 1
        and row.num_new_blocks == 0
        and row.request_id not in preempted
    ][:num_hidden]
    shown = SchedulerView(
        **{name: getattr(view, name) for name in view.__struct_fields__ if name != "ready"},
        ready=tuple(row for row in view.ready if row not in hidden),
    )
    preempt = policy.choose_preemptions(shown)
    rows = rows_that_stay(shown, preempt)
    num_decode = len(hidden) + sum(row.num_remaining_tokens == 1 for row in rows)
    admit, chunks = policy.choose_prompts(shown, rows, num_decode, may_admit=not preempt)
    assert (preempt, admit, chunks) == (whole.preempt, whole.admit, whole.chunks)
    assert num_decode == len(whole.decode)


def test_policies_with_a_state_see_all_rows() -> None:
    for name in ("pipemax", "tdpipe"):
        assert not isinstance(build_policy(name), SteadyPolicy)


@pytest.mark.parametrize(
    "settings",
    [
        make_settings(host=400),
        make_settings(prefix_sharing=True),
        make_settings(host_eviction=HostEviction.LRU),
        make_settings(policy="pipemax"),
    ],
)
def test_where_more_than_counts_matters_there_is_no_lockstep(settings: object) -> None:
    simulation = Simulation(settings, WORK)  # type: ignore[arg-type]
    assert simulation.engine.scheduler.begin_lockstep((), token_id=7) is None


@pytest.mark.parametrize("policy", ["fused", "vllm"])
@pytest.mark.parametrize("device", [60, 150])
def test_nobody_is_passed_over_where_no_candidate_has_room(
    policy: str, device: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``may_admit`` says no only where no policy could say yes."""
    ask, answers = Admission.may_admit, []

    def check(self: Admission) -> bool:
        answers.append(ask(self))
        if not answers[-1]:
            candidates = self.candidates(0)
            num_free = max(0, self.num_unreserved_blocks)
            assert not candidates or candidates[0].num_blocks > num_free
        return answers[-1]

    monkeypatch.setattr(Admission, "may_admit", check)
    Simulation(make_settings(policy=policy, device=device), WORK).run()
    assert True in answers
    assert False in answers


def test_owed_blocks_are_taken_until_they_are_settled() -> None:
    owed = OwedBlocks()
    owed.total += 5
    owed.by_request[3] = 2
    assert owed.settle(3) == 2
    assert owed.settle(3) == owed.settle(4) == 0
    assert owed.total == 3


@pytest.mark.parametrize("policy", ["fused", "vllm"])
def test_no_block_is_owed_to_anybody_at_the_end(policy: str) -> None:
    simulation = Simulation(make_settings(policy=policy, device=60), WORK)
    residency = simulation.engine.scheduler._lifecycle.residency
    for request, checker in WORK.requests():
        simulation.engine.add_request(request, checker)
    most_owed = 0
    while simulation.engine.has_unfinished_requests:
        simulation.step()
        assert simulation.manager.num_free_device_slots >= residency.owed.total
        most_owed = max(most_owed, residency.owed.total)
    simulation.fast_forward.end()
    assert most_owed > 0
    assert residency.owed.total == 0
    assert not residency.owed.by_request
    simulation.manager.check_integrity()


def test_turns_go_round_and_copies_are_nobodys_turn() -> None:
    turns = TurnCounter(3)
    turns.note_sent(1, has_rows=True)
    assert list(turns.order()) == [2, 0, 1]
    turns.note_sent(0, has_rows=False)
    assert list(turns.order()) == [2, 0, 1]
    turns.note_sent(2, has_rows=True)
    assert list(turns.order()) == [0, 1, 2]
    assert (turns.next_sequence, turns.num_in_flight) == (3, 3)
