import pytest
from kit.engine import Harness, make_config, make_geometry, make_request
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.transfers import unpack_int32

HEAD = list(range(1, 17))  # four blocks of 4


def make_harness(**overrides: int | bool) -> Harness:
    settings = {"device": 200, "num_stages": 2} | overrides
    is_enabled = bool(settings.pop("prefix_sharing", True))
    return Harness(make_config(make_geometry(**settings), prefix_sharing=is_enabled))


def test_siblings_share_the_blocks_of_their_prompt() -> None:
    harness = make_harness()
    prompt = [*HEAD, 20, 21]
    siblings = [make_request(0, prompt, 5, choice=choice) for choice in range(4)]
    results = harness.run(siblings)
    for sibling in siblings:
        assert results[0, sibling.choice].token_ids == harness.expected(sibling)
    assert [results[0, choice].num_cached_tokens for choice in range(4)] == [0, 16, 16, 16]
    statistics = harness.engine.statistics
    assert statistics.num_prompt_tokens == 18 + 3 * 2
    assert statistics.num_cached_tokens == 3 * 16
    assert dict(statistics.kv_lookups) == {Tier.DEVICE: 12, Tier.HOST: 0, Tier.NVME: 0, None: 4}
    harness.settle()


def test_a_sibling_waits_for_a_block_that_is_being_computed() -> None:
    harness = make_harness()
    for choice in range(2):
        harness.engine.add_request(make_request(0, [*HEAD, 20], 2, choice=choice))
    harness.engine.add_request(make_request(1, [30, 31], 2))
    harness.run()
    first = harness.executor.submitted[0]
    assert [row.request_id for row in first.scheduled] == [0]
    second = harness.executor.submitted[1]
    assert 2 in [row.request_id for row in second.scheduled]  # the stranger does not wait


def test_shared_blocks_are_the_same_slots() -> None:
    harness = make_harness()
    harness.run([make_request(0, [*HEAD, 20], 3, choice=choice) for choice in range(2)])
    heads = {
        tuple(unpack_int32(row.device_slots)[:4])
        for message in harness.executor.submitted
        for row in message.scheduled
    }
    assert len(heads) == 1


def test_the_last_prompt_token_is_always_computed() -> None:
    harness = make_harness()
    requests = [make_request(0, HEAD, 3, choice=choice) for choice in range(2)]
    results = harness.run(requests)
    assert results[0, 1].num_cached_tokens == 12
    assert results[0, 1].token_ids == harness.expected(requests[1])


def test_a_finished_requests_blocks_are_found_later() -> None:
    harness = make_harness(host=400)
    harness.run([make_request(0, [*HEAD, 20], 6, stop_token_ids=())])
    harness.settle()
    again = make_request(1, [*HEAD, 33], 6)
    results = harness.run([again])
    assert results[1, 0].num_cached_tokens == 16
    assert results[1, 0].token_ids == harness.expected(again)


def test_found_blocks_on_host_are_loaded_first() -> None:
    harness = make_harness(device=8, host=400, num_stages=1)
    harness.run([make_request(0, [*HEAD, 20], 6)])
    harness.run([make_request(1, range(50, 76), 6)])  # takes the whole device tier
    again = make_request(2, [*HEAD, 33], 6)
    results = harness.run([again])
    assert results[2, 0].num_cached_tokens == 16
    assert results[2, 0].token_ids == harness.expected(again)
    assert any(message.prefetch for message in harness.executor.submitted)
    assert dict(harness.engine.statistics.kv_lookups)[Tier.HOST] > 0
    harness.settle()


def test_a_block_that_lost_its_host_copy_is_stored_again() -> None:
    """HOST keeps what runs: a head found on the device alone gets a HOST copy when it is used."""
    harness = make_harness(device=40, host=12, num_stages=1)
    head = make_request(0, [*HEAD, 20], 2)
    filler = make_request(1, range(50, 90), 2)
    again = make_request(2, [*HEAD, 33], 20)
    for request in (head, filler, again):
        results = harness.run([request], check_every=1)
        assert results[request.key.offset, 0].token_ids == harness.expected(request)
    harness.settle()


@pytest.mark.parametrize("prefix_sharing", [True, False])
def test_sharing_can_be_switched_off(prefix_sharing: bool) -> None:
    harness = make_harness(prefix_sharing=prefix_sharing)
    harness.run([make_request(0, [*HEAD, 20], 3, choice=choice) for choice in range(3)])
    num_cached = harness.engine.statistics.num_cached_tokens
    assert num_cached == (32 if prefix_sharing else 0)
