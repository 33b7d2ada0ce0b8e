"""Seesaw's two phases: nothing lost, nothing above its room, time that adds up."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.simulations import make_settings
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.errors import JobFileError, RequestError
from pipemax_worker.performance.batch_shape import BatchShape
from pipemax_worker.planner.rivals import RIVALS, simulate_rival
from pipemax_worker.planner.rivals.buffered_decode import BufferedDecode, DecodeRates
from pipemax_worker.planner.rivals.pipeline_prefill import cut_into_chunks
from pipemax_worker.planner.rivals.sequences import HostBuffer, Sequence
from pipemax_worker.planner.workload import Workload

LENGTHS = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40)), min_size=1, max_size=40)


class OneSecond:
    """Every step takes a second; remembers the largest."""

    num_stages = 1
    alike = (0,)

    def __init__(self) -> None:
        self.most_rows = self.most_kv_tokens = 0

    def stage_seconds(self, shape: BatchShape, stage: int) -> float:
        self.most_rows = max(self.most_rows, shape.num_requests)
        self.most_kv_tokens = max(self.most_kv_tokens, shape.num_kv_tokens)
        return 1.0


def make_rates(**overrides: Any) -> DecodeRates:
    defaults: dict[str, Any] = {
        "capacity_tokens": 200,
        "max_num_requests": 8,
        "kv_bytes_per_token": 1,
        "load_bytes_per_second": 1e9,
        "store_bytes_per_second": 10.0,
        "slack_tokens": 2,
    }
    return DecodeRates(**(defaults | overrides))


def filled(*sequences: tuple[int, int]) -> HostBuffer:
    buffer = HostBuffer(10_000)
    for num_tokens, num_remaining in sequences:
        buffer.add(Sequence(num_tokens, num_remaining))
    return buffer


# --- prefill


@given(st.lists(st.integers(1, 100), max_size=30), st.integers(1, 64))
@settings(deadline=None)
def test_chunks_hold_every_token_once_and_are_full_but_for_the_last(
    prompts: list[int], limit: int
) -> None:
    chunks = cut_into_chunks(prompts, limit)
    assert sum(chunk.num_tokens for chunk in chunks) == sum(prompts)
    assert sum(chunk.num_requests for chunk in chunks) == len(prompts)
    assert all(chunk.num_tokens == limit for chunk in chunks[:-1])
    assert all(0 < chunk.num_tokens <= limit for chunk in chunks[-1:])


def test_a_buffer_takes_whoever_comes_first_and_then_what_fits() -> None:
    buffer = HostBuffer(10)
    assert buffer.has_room(50)
    buffer.add(Sequence(8, 1))
    assert buffer.has_room(2)
    assert not buffer.has_room(3)
    buffer.give_back([Sequence(1, 5), Sequence(2, 5)])
    assert [buffer.take().num_tokens for _ in range(3)] == [1, 2, 8]
    assert buffer.num_tokens == 0


# --- decode


@given(LENGTHS, st.integers(110, 300), st.integers(1, 9))
@settings(deadline=None)
def test_every_token_is_decoded_within_the_room(
    lengths: list[tuple[int, int]], capacity: int, max_rows: int
) -> None:
    cost = OneSecond()
    decode = BufferedDecode(cost, make_rates(capacity_tokens=capacity, max_num_requests=max_rows))
    buffer = filled(*lengths)
    decode.run(0.0, buffer, None)
    assert len(buffer) == 0
    assert decode.totals.num_tokens == sum(remaining for _, remaining in lengths)
    assert cost.most_rows <= max_rows
    assert cost.most_kv_tokens <= capacity + max_rows  # who grows beyond it leaves after the step


def test_a_sequence_runs_once_its_kv_is_there() -> None:
    decode = BufferedDecode(OneSecond(), make_rates(load_bytes_per_second=10.0))
    end = decode.run(5.0, filled((20, 3), (10, 1)), None)
    assert end == pytest.approx(5.0 + 2.0 + 3.0)  # the second came beside the first one's steps
    assert decode.totals.stall_seconds == pytest.approx(2.0)


def test_the_youngest_makes_room_and_comes_back() -> None:
    decode = BufferedDecode(OneSecond(), make_rates(capacity_tokens=100))
    decode.run(0.0, filled((40, 30), (40, 30)), None)
    assert decode.totals.num_swapped_out >= 1
    assert decode.totals.num_tokens == 60
    assert decode.totals.num_loaded_tokens == 80 + decode.totals.num_stored_tokens


def test_an_empty_buffer_ends_the_phase_and_what_runs_is_stored() -> None:
    decode = BufferedDecode(OneSecond(), make_rates())
    buffer = filled((20, 30), (10, 2))
    end = decode.run(0.0, buffer, until_tokens=30)
    assert [len(buffer), buffer.first] == [1, Sequence(23, 27)]  # the second came a step later
    assert end == pytest.approx(3.0 + 2.3)


# --- the whole


@given(LENGTHS, st.integers(60, 120), st.sampled_from([0, 70, 400]))
@settings(deadline=None, max_examples=25)
def test_every_rival_generates_every_token_and_does_so_twice_alike(
    lengths: list[tuple[int, int]], device: int, host: int
) -> None:
    work = Workload(tuple(lengths))
    node = make_settings(device=device, host=host, look_ahead=8)
    for name in RIVALS:
        result = simulate_rival(name, node, work)
        assert result.num_requests == len(lengths)
        assert result.statistics.num_generated_tokens == work.num_output_tokens
        assert 0.0 < max(result.busy_ratios) <= 1.0 + 1e-9
        assert result == simulate_rival(name, node, work)


def test_a_prompt_larger_than_half_of_the_buffer_gets_its_turn() -> None:
    work = Workload(((5, 40), (60, 5), (5, 40), (90, 5)))
    result = simulate_rival("seesaw", make_settings(device=40, host=20), work)
    assert result.num_requests == 4


def test_a_switch_reads_what_the_other_cut_did_not_hold() -> None:
    work = Workload(((20, 10),) * 30)
    fast = make_settings(device=60, host=400, link_bytes_per_second=1e8)
    slow = make_settings(device=60, host=400, link_bytes_per_second=1e7)
    stalls = [
        simulate_rival("seesaw", node, work).statistics.stages[0].stall_seconds
        for node in (fast, slow)
    ]
    assert stalls[1] > 9 * stalls[0] > 0


def test_a_larger_buffer_means_fewer_switches() -> None:
    work = Workload(((20, 10),) * 60)
    seconds = [
        simulate_rival("seesaw", make_settings(device=60, host=host), work).seconds
        for host in (40, 80, 400)
    ]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] > seconds[-1]


def test_prompts_are_stored_once_and_loaded_at_least_once() -> None:
    work = Workload(((20, 10),) * 30)
    result = simulate_rival("seesaw", make_settings(device=60, host=400), work)
    down, up = result.statistics.copies
    assert (down.source, down.target, up.source) == (Tier.DEVICE, Tier.HOST, Tier.HOST)
    assert 0 < down.num_bytes <= up.num_bytes


def test_what_can_never_run_is_refused() -> None:
    settings_of_few = make_settings(device=8, host=400)
    for name in RIVALS:
        with pytest.raises(RequestError, match="need"):
            simulate_rival(name, settings_of_few, Workload(((400, 10),)))


def test_an_unknown_rival_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(JobFileError, match="seesaw, tdpipe-oracle, tdpipe-predictor, vllm-tp"):
        simulate_rival("flexgen", make_settings(), Workload(((1, 1),)))
