"""Preempted requests: KV that moves to NVME and back, KV that is computed again."""

import msgspec
import pytest
from kit.engine import Harness, make_config, make_geometry, make_request
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.request import Request
from pipemax_worker.performance.hardware import CPU_PROFILE

FAST_NVME = msgspec.structs.replace(
    CPU_PROFILE, host_to_nvme_bytes_per_second=1e12, nvme_to_host_bytes_per_second=1e12
)
SLOW_NVME = msgspec.structs.replace(
    CPU_PROFILE, host_to_nvme_bytes_per_second=1e2, nvme_to_host_bytes_per_second=1e2
)


def make_harness(*, nvme: int, fast: bool = True, host: int = 20, **options: float) -> Harness:
    """Admission that expects no output at all: HOST overflows as texts grow."""
    geometry = make_geometry(num_stages=2, device=40, host=host, nvme=nvme)
    config = make_config(
        geometry, growth_reserve_ratio=0.0, prefix_sharing=bool(options.pop("sharing", False))
    )
    profile = FAST_NVME if fast else SLOW_NVME
    return Harness(config, profile=profile, seed=2, **options)  # type: ignore[arg-type]


def growing_requests(num_requests: int = 6) -> list[Request]:
    return [
        make_request(offset, range(offset + 1, offset + 9), 24, stop_token_ids=())
        for offset in range(num_requests)
    ]


def run(harness: Harness, requests: list[Request]) -> None:
    results = harness.run(requests, check_every=1)
    for request in requests:
        assert results[request.key.offset, 0].token_ids == harness.expected(request)
    harness.settle()


def test_moving_is_taken_where_it_is_cheaper() -> None:
    harness = make_harness(nvme=100)
    run(harness, growing_requests())
    statistics = harness.engine.statistics
    assert statistics.num_preemptions_by_move > 0
    assert statistics.num_preemptions_by_recompute == 0
    assert statistics.num_recomputed_tokens == 0
    links = {(entry.source, entry.target) for entry in statistics.copies}
    assert {(Tier.HOST, Tier.NVME), (Tier.NVME, Tier.HOST)} <= links


def test_computing_again_is_taken_where_it_is_cheaper() -> None:
    harness = make_harness(nvme=100, fast=False)
    run(harness, growing_requests())
    statistics = harness.engine.statistics
    assert statistics.num_preemptions_by_move == 0
    assert statistics.num_preemptions_by_recompute > 0
    assert statistics.num_recomputed_tokens > 0
    assert statistics.num_prompt_tokens == 6 * 8  # counted once, however often computed


def test_without_nvme_it_is_computed_again() -> None:
    harness = make_harness(nvme=0)
    run(harness, growing_requests())
    assert harness.engine.statistics.num_preemptions_by_recompute > 0


def test_a_full_nvme_falls_back_to_computing_again() -> None:
    harness = make_harness(nvme=6)
    run(harness, growing_requests(10))
    assert harness.engine.statistics.num_preemptions_by_recompute > 0


@pytest.mark.parametrize("sharing", [False, True])
def test_a_bad_checksum_costs_a_recomputation_and_nothing_else(sharing: bool) -> None:
    harness = make_harness(nvme=100, promote_failures=0.3, sharing=sharing)
    run(harness, growing_requests(10))
    assert harness.executor.num_bad_blocks > 0
    statistics = harness.engine.statistics
    assert statistics.num_invalidated_blocks > 0
    assert statistics.num_recomputed_tokens > 0


def test_who_was_preempted_returns_before_anyone_new_starts() -> None:
    harness = make_harness(nvme=100, host=12)
    run(harness, growing_requests(8))
    order: list[int] = []
    for message in harness.executor.submitted:
        order += [new.request_id for new in message.new_requests]
    assert order == sorted(order)


def test_the_oldest_is_never_preempted() -> None:
    """It is in every one of its turns, so it ends first of equals."""
    harness = make_harness(nvme=0, host=12)
    for request in growing_requests():
        harness.engine.add_request(request)
    order: list[int] = []
    while harness.engine.has_unfinished_requests:
        order += [finished.key.offset for finished in harness.engine.step()]
    assert order[0] == 0


def test_parked_kv_that_is_shared_does_not_block_the_others() -> None:
    harness = make_harness(nvme=100, host=14, sharing=True)
    head = list(range(1, 13))
    requests = [
        make_request(offset, [*head, 40 + offset], 20, stop_token_ids=()) for offset in range(8)
    ]
    run(harness, requests)
    assert harness.engine.statistics.num_preemptions_by_move > 0
