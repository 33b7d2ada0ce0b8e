from kit.engine import make_request
from pipemax_worker.engine.request_state import (
    PreemptionKind,
    RequestState,
    RequestStatus,
    ready_states,
)


def running(num_prompt: int, max_tokens: int) -> RequestState:
    state = RequestState(0, make_request(0, range(1, num_prompt + 1), max_tokens))
    state.status = RequestStatus.RUNNING
    return state


def test_a_new_request_has_its_prompt_to_compute() -> None:
    state = running(5, 3)
    assert state.num_remaining_tokens == 5
    assert state.num_output_tokens == 0
    assert state.max_num_tokens == 7
    assert ready_states([state], run_ahead=False)


def test_a_token_in_flight_blocks_it_unless_it_runs_ahead() -> None:
    state = running(5, 3)
    state.num_computed_tokens = 5
    state.num_unknown_tokens = 1
    assert state.num_remaining_tokens == 1
    assert not ready_states([state], run_ahead=False)
    assert ready_states([state], run_ahead=True)
    state.num_computed_tokens = 6
    state.num_unknown_tokens = 2
    assert not ready_states([state], run_ahead=True)


def test_it_never_runs_ahead_of_its_last_token() -> None:
    state = running(5, 1)
    state.num_computed_tokens = 5
    state.num_unknown_tokens = 1
    assert not ready_states([state], run_ahead=True)


def test_it_does_not_run_ahead_of_kv_that_was_cut_back() -> None:
    state = running(5, 4)
    state.num_computed_tokens = 4
    state.num_unknown_tokens = 1
    assert not ready_states([state], run_ahead=True)


def test_who_is_to_be_preempted_is_not_ready() -> None:
    state = running(5, 3)
    state.preemption = PreemptionKind.MOVE
    assert not ready_states([state], run_ahead=True)


def test_new_blocks_are_counted_at_borders_only() -> None:
    state = running(5, 9)
    assert state.num_new_blocks(5, block_tokens=4) == 2
    state.block_ids, state.num_computed_tokens = [7, 8], 7
    assert state.num_new_blocks(1, block_tokens=4) == 0
    state.num_computed_tokens = 8
    assert state.num_new_blocks(1, block_tokens=4) == 1
