"""What cards pay for each other's bytes."""

import pytest
from pipemax_worker.performance.node_profile import load_node_profile
from pipemax_worker.planner.rivals.collectives import Collectives, Protocol, derive_collectives

PLAIN = (Protocol(1e-5, 2e-6, 1.0),)


def test_a_ring_sends_each_byte_twice_but_for_its_own_part() -> None:
    ring = Collectives(4, 1e9, PLAIN)
    assert ring.all_reduce_seconds(4e6) == pytest.approx(1e-5 + 6 * (2e-6 + 1e-3))
    assert ring.all_gather_seconds(4e6) == pytest.approx(1e-5 + 3 * (2e-6 + 1e-3))


def test_one_card_pays_nothing() -> None:
    assert Collectives(1, 1e9).all_reduce_seconds(1e9) == 0.0


def test_small_messages_go_by_the_protocol_of_low_latency() -> None:
    ring = Collectives(8, 2e10)
    assert ring.all_reduce_seconds(1.0) == pytest.approx(6.6e-6 + 14 * 1e-6, rel=1e-3)
    large = 1e9
    assert ring.all_reduce_seconds(large) == pytest.approx(2 * 7 / 8 * large / 2e10, rel=0.01)


@pytest.mark.parametrize(
    ("hardware", "gigabytes_per_second"),
    [("4xl20", 14.65), ("2x4090", 12.0), ("4xh200-24g", 21.0)],
)
def test_the_bus_is_what_was_measured_or_what_the_links_allow(
    hardware: str, gigabytes_per_second: float
) -> None:
    """L20s: by TD-Pipe. H200s without peer-to-peer: all cards copying both ways at once."""
    bus = derive_collectives(load_node_profile(hardware)).bytes_per_second
    assert bus == pytest.approx(gigabytes_per_second * 1e9, rel=0.05)


def test_a_megabyte_between_two_cards_through_the_host_takes_a_tenth_of_a_millisecond() -> None:
    ring = derive_collectives(load_node_profile("2x4090"))
    assert ring.all_reduce_seconds(1e6) == pytest.approx(1e-4, rel=0.1)


def test_peers_need_no_host() -> None:
    node = load_node_profile("8xh100")
    assert derive_collectives(node).bytes_per_second == node.link.hop_bytes_per_second
