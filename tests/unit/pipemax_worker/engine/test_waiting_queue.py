import random

import pytest
from kit.engine import Harness, make_config, make_geometry, make_request, random_requests
from pipemax_worker.engine.request_state import RequestState
from pipemax_worker.engine.waiting_queue import WaitingQueue


def fill(window: int, limits: list[int]) -> WaitingQueue:
    queue = WaitingQueue(window)
    for number, limit in enumerate(limits):
        queue.add(RequestState(number, make_request(number, [1, 2], limit)))
    return queue


def order(queue: WaitingQueue) -> list[int]:
    return [state.request_id for state in queue]


def test_without_a_window_the_order_is_that_of_arrival() -> None:
    assert order(fill(0, [5, 500, 50])) == [0, 1, 2]


def test_the_highest_limits_come_first() -> None:
    assert order(fill(100, [100, 10, 50, 90])) == [0, 3, 2, 1]


def test_equal_limits_keep_their_order() -> None:
    assert order(fill(100, [7] * 5)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(5))
def test_nobody_is_overtaken_by_more_than_the_window(seed: int) -> None:
    generator = random.Random(seed)
    queue = fill(20, [generator.randint(1, 1000) for _ in range(200)])
    for position, request_id in enumerate(order(queue)):
        assert position <= request_id + 20


def test_who_is_removed_is_gone_and_strangers_are_ignored() -> None:
    queue = fill(10, [3, 9, 6])
    queue.remove(1)
    queue.remove(1)
    queue.remove(77)
    assert order(queue) == [0, 2] or order(queue) == [2, 0]
    assert len(queue) == 2


def test_ordering_changes_no_text() -> None:
    requests = random_requests(random.Random(3), 30, max_prompt=12, max_output=16)
    geometry = make_geometry(num_stages=2, device=40, host=120)
    harness = Harness(make_config(geometry, order_window=16), seed=3)
    results = harness.run(requests)
    for request in requests:
        assert results[request.key.offset, 0].token_ids == harness.expected(request)
    harness.settle()


def test_long_outputs_begin_before_short_ones() -> None:
    geometry = make_geometry(device=12)
    harness = Harness(make_config(geometry, order_window=64, prefix_sharing=False), eager=True)
    for offset, limit in enumerate([30, 4, 4, 4, 28]):
        harness.engine.add_request(make_request(offset, [1, 2, 3], limit))
    harness.engine.step()
    first = [row.request_id for row in harness.executor.submitted[0].scheduled]
    assert first[:2] == [0, 4]


def test_who_comes_and_goes_is_counted() -> None:
    queue = fill(0, [5, 6])
    num_changes = queue.num_changes
    queue.remove(7)
    assert queue.num_changes == num_changes
    queue.remove(0)
    assert queue.num_changes == num_changes + 1


def test_what_is_offered_is_described_once_until_somebody_comes() -> None:
    harness = Harness(make_config(make_geometry(device=4, host=0), prefix_sharing=False))
    for number in range(3):
        harness.engine.add_request(make_request(number, [1, 2, 3], 4))
    admission = harness.scheduler._lifecycle.admission
    offered = admission.candidates(0)
    assert [one.request_id for one in offered] == [0, 1, 2]
    assert admission.candidates(0) == offered
    harness.engine.add_request(make_request(3, [1, 2, 3], 4))
    assert [one.request_id for one in admission.candidates(0)] == [0, 1, 2, 3]
