import pytest
from kit.engine import Harness, make_config, make_geometry, make_request
from pipemax_worker.contract.messages import SampledToken
from pipemax_worker.engine.message import Plan
from pipemax_worker.engine.scheduler import Scheduler
from pipemax_worker.errors import InvariantError


def make_scheduler(num_micro_batches: int = 2, **settings: int | bool) -> Scheduler:
    geometry = make_geometry(num_stages=2, device=100)
    config = make_config(geometry, num_micro_batches=num_micro_batches, **settings)
    return Harness(config).scheduler


def next_plan(scheduler: Scheduler) -> Plan:
    plan = scheduler.schedule(0.0)
    assert plan is not None
    return plan


def answer(scheduler: Scheduler, plan: Plan, token_id: int = 5) -> None:
    rows = plan.stage_input.scheduled
    sampled = {row.request_id: SampledToken(row.request_id, token_id) for row in rows}
    scheduler.update_from_output(plan, sampled)


def row_ids(plan: Plan) -> list[int]:
    return [row.request_id for row in plan.stage_input.scheduled]


def test_micro_batches_take_turns() -> None:
    scheduler = make_scheduler()
    for offset in range(4):
        scheduler.add_request(make_request(offset, [1, 2, 3], 9))
    first, second = next_plan(scheduler), next_plan(scheduler)
    assert (row_ids(first), row_ids(second)) == ([0, 1], [2, 3])
    assert scheduler.schedule(0.0) is None  # all wait for their tokens
    answer(scheduler, first)
    third = next_plan(scheduler)
    assert (third.stage_input.micro_batch_id, row_ids(third)) == (0, [0, 1])
    assert [message.sequence for message in (first, second, third)] == [0, 1, 2]


def test_prompts_are_cut_to_the_token_target_and_run_on_without_waiting() -> None:
    scheduler = make_scheduler(max_batched_tokens=8)
    scheduler.add_request(make_request(0, range(1, 21), 3))
    plans = [next_plan(scheduler) for _ in range(3)]
    rows = [plan.stage_input.scheduled[0] for plan in plans]
    assert [(row.num_computed_tokens, row.num_new_tokens) for row in rows] == [
        (0, 8),
        (8, 8),
        (16, 4),
    ]
    assert [row.needs_sample for row in rows] == [False, False, True]
    assert [plan.expects_output for plan in plans] == [False, False, True]
    assert scheduler.schedule(0.0) is None


def test_decodes_and_prompts_share_a_step() -> None:
    scheduler = make_scheduler(num_micro_batches=1)
    scheduler.add_request(make_request(0, [1, 2, 3], 9))
    answer(scheduler, next_plan(scheduler))
    scheduler.add_request(make_request(1, range(1, 30), 9))
    rows = next_plan(scheduler).stage_input.scheduled
    assert [(row.request_id, row.num_new_tokens) for row in rows] == [(0, 1), (1, 15)]


def test_running_ahead_takes_one_unknown_token_at_most() -> None:
    scheduler = make_scheduler(num_micro_batches=1, run_ahead=True)
    scheduler.add_request(make_request(0, [1, 2, 3], 9))
    first, second = next_plan(scheduler), next_plan(scheduler)
    assert second.stage_input.scheduled[0].token_ids is None
    assert second.stage_input.scheduled[0].num_computed_tokens == 3
    assert scheduler.schedule(0.0) is None
    answer(scheduler, first)
    assert next_plan(scheduler).stage_input.scheduled[0].token_ids is None


def test_a_token_after_the_stop_is_dropped_and_its_blocks_stay_until_then() -> None:
    scheduler = make_scheduler(num_micro_batches=1, run_ahead=True)
    scheduler.add_request(make_request(0, [1, 2, 3], 9, stop_token_ids=(7,)))
    first, second = next_plan(scheduler), next_plan(scheduler)
    answer(scheduler, first, token_id=7)
    (finished,) = scheduler.take_finished()
    assert finished.token_ids == ()
    assert not scheduler.has_unfinished_requests
    used = scheduler.statistics().occupancy[0].num_used
    assert used == 1
    answer(scheduler, second)
    assert scheduler.take_finished() == []
    assert scheduler.statistics().occupancy[0].num_used == 0
    assert scheduler.statistics().num_generated_tokens == 1


def test_no_more_run_than_may() -> None:
    scheduler = make_scheduler(num_micro_batches=1, max_num_running=2)
    for offset in range(4):
        scheduler.add_request(make_request(offset, [1, 2], 2))
    plan = next_plan(scheduler)
    assert row_ids(plan) == [0, 1]
    assert (scheduler.num_running, scheduler.num_waiting) == (2, 2)
    answer(scheduler, plan)
    plan = next_plan(scheduler)
    assert row_ids(plan) == [0, 1]
    answer(scheduler, plan)
    assert row_ids(next_plan(scheduler)) == [2, 3]


def test_admission_keeps_room_for_growth() -> None:
    geometry = make_geometry(device=11)
    config = make_config(geometry, expected_output_tokens=9, prefix_sharing=False)
    scheduler = Harness(config).scheduler
    for offset in range(5):
        scheduler.add_request(make_request(offset, [1, 2, 3], 30))
    # 12 tokens, 3 of 11 blocks each; half a block a request is kept for unfilled last ones.
    assert row_ids(next_plan(scheduler)) == [0, 1, 2]


def test_nothing_to_do_is_no_plan() -> None:
    assert make_scheduler().schedule(0.0) is None


def test_a_standstill_is_a_bug_that_says_what_stands() -> None:
    scheduler = make_scheduler()
    scheduler.add_request(make_request(0, [1, 2, 3], 9))
    scheduler._lifecycle.admission._num_reserved_blocks = 100
    with pytest.raises(InvariantError, match=r"1 unfinished requests \(1 waiting, 0 preempted\)"):
        scheduler.schedule(0.0)
