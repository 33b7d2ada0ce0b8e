from kit.engine import STAGE_COST, make_request
from pipemax_worker.engine.micro_batches import MicroBatches
from pipemax_worker.engine.request_state import RequestState
from pipemax_worker.performance.hardware import CPU_PROFILE
from pipemax_worker.performance.roofline import RooflineEstimator


def make_micro_batches(num: int) -> MicroBatches:
    return MicroBatches(num, RooflineEstimator(CPU_PROFILE, [STAGE_COST]))


def make_state(request_id: int, num_computed_tokens: int = 0) -> RequestState:
    state = RequestState(request_id, make_request(request_id, [1], 4))
    state.num_computed_tokens = num_computed_tokens
    return state


def test_members_are_resident_or_lacking() -> None:
    micro_batches = make_micro_batches(2)
    state = make_state(0)
    micro_batches.add(state, 1)
    assert list(micro_batches[1].resident) == [0]
    state.block_ids = [5, 6]
    state.on_device = {6: None}
    micro_batches[1].refresh(state)
    assert (list(micro_batches[1].lacking), list(micro_batches[1].partly)) == ([0], [0])
    state.on_device = {}
    micro_batches[1].refresh(state)
    assert (list(micro_batches[1].lacking), list(micro_batches[1].partly)) == ([0], [])
    state.on_device = {5: None, 6: None}
    micro_batches[1].refresh(state)
    assert (list(micro_batches[1].resident), list(micro_batches[1].lacking)) == ([0], [])
    assert micro_batches.remove(state) == 1
    assert micro_batches.sizes == (0, 0)


def test_the_predicted_step_follows_the_members() -> None:
    micro_batches = make_micro_batches(2)
    micro_batches.add(make_state(0, 100_000), 0)
    slow, fast = micro_batches.seconds()
    assert slow > fast
    assert micro_batches.lightest() == 1
    micro_batches.note_computed(0, 100_000)
    assert micro_batches.seconds()[0] > slow


def test_the_next_with_requests_skips_empty_ones() -> None:
    micro_batches = make_micro_batches(4)
    assert micro_batches.next_with_requests(0) is None
    micro_batches.add(make_state(0), 2)
    assert micro_batches.next_with_requests(0) is micro_batches[2]
    assert micro_batches.next_with_requests(2) is micro_batches[2]


def test_the_tail_is_evened_out_with_idle_requests_only() -> None:
    micro_batches = make_micro_batches(2)
    states = [make_state(request_id, 10 - request_id) for request_id in range(4)]
    for state in states:
        state.num_in_flight = 1
        micro_batches.add(state, 0)
    micro_batches.rebalance(0)
    assert micro_batches.sizes == (4, 0)
    for state in states:
        state.num_in_flight = 0
    for _ in range(5):
        micro_batches.rebalance(0)
        micro_batches.rebalance(1)
    assert micro_batches.sizes == (2, 2)
    assert set(micro_batches[1].resident) == {2, 3}  # the cheapest to move
