"""Whose KV leaves the host tier first: who is used latest, or plain LRU to compare."""

import random

import pytest
from kit.engine import Harness, make_config, make_geometry, random_requests
from pipemax_worker.engine.config import HostEviction
from pipemax_worker.engine.request_state import RequestStatus


def make_harness(eviction: HostEviction, *, policy: str = "vllm", seed: int = 0) -> Harness:
    """Room for about a third of what is admitted, without a word of how long outputs are."""
    geometry = make_geometry(num_stages=2, block_tokens=4, device=24, host=40, nvme=300)
    config = make_config(
        geometry,
        growth_reserve_ratio=0.0,
        expected_output_tokens=1,
        host_eviction=eviction,
        max_batched_tokens=32,
    )
    return Harness(config, policy=policy, seed=seed)


def first_victims(harness: Harness) -> tuple[list[int], list[tuple[int, int]]]:
    """(ids that would leave, in order; (last turn, id) of all that run) in a full pipeline."""
    for request in random_requests(random.Random(3), 12, max_prompt=8, max_output=30):
        harness.engine.add_request(request)
    for _ in range(6):
        harness.engine.step()
    states = harness.scheduler._lifecycle.states.values()
    running = sorted(
        (state.last_turn, state.request_id)
        for state in states
        if state.status is RequestStatus.RUNNING and state.micro_batch_id is not None
    )
    victims = harness.scheduler._views._preemptible()
    return [victim.request_id for victim in victims], running


def test_the_youngest_is_used_latest() -> None:
    victims, running = first_victims(make_harness(HostEviction.NEXT_USE))
    ids = sorted((request_id for _, request_id in running), reverse=True)
    assert len(victims) >= 3
    assert victims == ids[: len(victims)]


def test_lru_takes_whoever_has_not_run_for_longest_but_never_the_oldest() -> None:
    victims, running = first_victims(make_harness(HostEviction.LRU))
    oldest = min(request_id for _, request_id in running)
    assert len(victims) >= 3
    assert victims == [r for _, r in running if r != oldest][: len(victims)]


@pytest.mark.parametrize("eviction", list(HostEviction))
@pytest.mark.parametrize("seed", range(6))
def test_either_way_all_texts_come_out_right_and_no_block_is_lost(
    eviction: HostEviction, seed: int
) -> None:
    harness = make_harness(eviction, policy="pipemax", seed=seed)
    requests = random_requests(random.Random(seed), 20, max_prompt=30, max_output=60)
    results = harness.run(requests, check_every=20)
    for request in requests:
        assert results[request.key.offset, 0].token_ids == harness.expected(request)
    harness.settle()
    statistics = harness.engine.statistics
    assert statistics.num_preemptions_by_recompute + statistics.num_preemptions_by_move > 0
