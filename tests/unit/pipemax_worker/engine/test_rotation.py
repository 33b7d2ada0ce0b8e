"""More live KV than the device holds: micro-batches take turns on it."""

import msgspec
import pytest
from kit.engine import Harness, make_config, make_geometry, make_request
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.messages import StageInput
from pipemax_worker.contract.transfers import unpack_int32
from pipemax_worker.performance.hardware import CPU_PROFILE

NUM_MICRO_BATCHES = 4


def make_harness(bandwidth: float, *, host: int = 400, device: int = 48) -> Harness:
    """Requests of 4 to 8 blocks; a third of the live KV fits the device."""
    profile = msgspec.structs.replace(CPU_PROFILE, host_to_device_bytes_per_second=bandwidth)
    geometry = make_geometry(num_stages=NUM_MICRO_BATCHES, device=device, host=host)
    config = make_config(geometry, prefix_sharing=False, expected_output_tokens=16)
    harness = Harness(config, profile=profile, eager=True)
    harness.executor.link_bytes_per_second = bandwidth
    return harness


def run(harness: Harness, num_requests: int = 24) -> list[StageInput]:
    requests = [
        make_request(offset, range(offset + 1, offset + 17), 16, stop_token_ids=())
        for offset in range(num_requests)
    ]
    results = harness.run(requests, check_every=3)
    for request in requests:
        assert results[request.key.offset, 0].token_ids == harness.expected(request)
    harness.settle()
    return harness.executor.submitted


def num_loaded(message: StageInput) -> int:
    return sum(job.num_slots for job in message.prefetch)


def mean_rows(messages: list[StageInput]) -> float:
    rows = [len(message.scheduled) for message in messages if message.scheduled]
    return sum(rows) / len(rows)


def test_rotation_makes_the_batches_larger() -> None:
    without = run(make_harness(1e9, host=0))
    with_rotation = run(make_harness(1e9))
    assert not any(message.prefetch for message in without)
    assert any(message.prefetch for message in with_rotation)
    assert mean_rows(with_rotation) > 1.15 * mean_rows(without)


def test_loads_stay_within_the_budget() -> None:
    harness = make_harness(1e9)
    budgets: dict[int, int] = {}
    schedule = harness.scheduler.schedule

    def recording(now: float):  # type: ignore[no-untyped-def]
        plan = schedule(now)
        if plan is not None:
            budget = harness.engine.statistics.prefetch_budget_bytes
            budgets[plan.sequence] = max(1, budget // harness.config.slot_bytes)
        return plan

    harness.scheduler.schedule = recording  # type: ignore[method-assign]
    for message in run(harness):
        if message.scheduled:  # otherwise nothing computes and nobody waits
            assert num_loaded(message) <= budgets[message.sequence]


def test_a_slow_link_loads_a_block_at_a_time_and_nobody_starves() -> None:
    messages = run(make_harness(1e3))
    loads = {num_loaded(message) for message in messages if message.scheduled}
    assert max(loads) == 1


def test_everything_filled_is_written_through() -> None:
    harness = make_harness(1e9, device=400)
    messages = run(harness)
    stored = sum(job.num_slots for message in messages for job in message.stores_after)
    assert stored == 24 * 7  # 16 + 15 computed positions: 7 full blocks of 4


def test_what_needs_no_rotation_moves_nothing_up() -> None:
    messages = run(make_harness(1e9, device=400))
    assert not any(message.prefetch for message in messages)


def test_unfilled_blocks_leave_the_device_only_where_it_is_tight() -> None:
    """Ten lacking requests leave ten unfilled blocks: more than a tenth of 48 slots."""
    harness = make_harness(1e9)
    messages = run(harness)
    stored = sum(job.num_slots for message in messages for job in message.stores_after)
    assert stored > 24 * 7


@pytest.mark.parametrize("num_micro_batches", [1, 2, 3])
def test_a_request_larger_than_half_the_device_runs(num_micro_batches: int) -> None:
    geometry = make_geometry(num_stages=2, device=10, host=60)
    harness = Harness(make_config(geometry, num_micro_batches=num_micro_batches), seed=4)
    requests = [
        make_request(offset, range(offset + 1, offset + 25), 12, stop_token_ids=())
        for offset in range(5)  # 35 tokens: 9 of the 10 slots
    ]
    results = harness.run(requests, check_every=1)
    for request in requests:
        assert results[request.key.offset, 0].token_ids == harness.expected(request)
    harness.settle()


def test_a_message_may_only_move_copies() -> None:
    geometry = make_geometry(num_stages=2, device=9, host=60)
    harness = Harness(make_config(geometry), seed=4)
    harness.run([make_request(offset, range(offset + 1, offset + 25), 12) for offset in range(4)])
    empty = [message for message in harness.executor.submitted if not message.scheduled]
    assert any(message.prefetch for message in empty)
    for message in empty:
        assert message.prefetch or message.stores_after or message.background


def test_no_slot_is_loaded_twice_in_one_message() -> None:
    for message in run(make_harness(1e9)):
        targets = [slot for job in message.prefetch for slot in unpack_int32(job.target_slots)]
        assert len(targets) == len(set(targets))
        assert len(message.prefetch) <= 1  # one batched copy call a step


def test_statistics_name_the_traffic() -> None:
    harness = make_harness(1e9)
    messages = run(harness)
    totals = {(entry.source, entry.target): entry for entry in harness.engine.statistics.copies}
    loaded = sum(map(num_loaded, messages))
    bytes_up = totals[Tier.HOST, Tier.DEVICE].num_bytes
    assert bytes_up == loaded * 4096 * NUM_MICRO_BATCHES
    assert totals[Tier.DEVICE, Tier.HOST].seconds > 0
