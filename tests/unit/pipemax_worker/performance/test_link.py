import pytest
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.performance.hardware import CPU_PROFILE, GPU_PROFILE, profile_for_device
from pipemax_worker.performance.link import LINKS, LinkEstimator


@pytest.mark.parametrize("link", LINKS)
def test_the_prior_is_the_profile(link: tuple[Tier, Tier]) -> None:
    links = LinkEstimator(GPU_PROFILE)
    assert links.bandwidth(*link) == pytest.approx(GPU_PROFILE.link_bandwidth(*link))


def test_measurements_replace_the_prior() -> None:
    links = LinkEstimator(GPU_PROFILE)
    for _ in range(100):
        links.observe(Tier.HOST, Tier.DEVICE, 50_000_000, 50_000_000 / 41e9)
    assert links.bandwidth(Tier.HOST, Tier.DEVICE) == pytest.approx(41e9, rel=0.01)
    assert links.bandwidth(Tier.DEVICE, Tier.HOST) == pytest.approx(20e9)


def test_a_small_copy_counts_for_little() -> None:
    links = LinkEstimator(GPU_PROFILE)
    for _ in range(100):
        links.observe(Tier.HOST, Tier.DEVICE, 50_000_000, 1e-3)
    links.observe(Tier.HOST, Tier.DEVICE, 4096, 2e-5)
    assert links.bandwidth(Tier.HOST, Tier.DEVICE) > 49e9


def test_a_slower_link_is_noticed() -> None:
    links = LinkEstimator(GPU_PROFILE)
    for rate in (50e9, 10e9):
        for _ in range(100):
            links.observe(Tier.HOST, Tier.DEVICE, 10_000_000, 10_000_000 / rate)
    assert links.bandwidth(Tier.HOST, Tier.DEVICE) == pytest.approx(10e9, rel=0.05)


def test_copies_that_teach_nothing_change_nothing() -> None:
    links = LinkEstimator(CPU_PROFILE)
    before = links.bandwidth(Tier.NVME, Tier.HOST)
    links.observe(Tier.NVME, Tier.HOST, 0, 1.0)
    links.observe(Tier.NVME, Tier.HOST, 4096, 0.0)
    assert links.bandwidth(Tier.NVME, Tier.HOST) == before


def test_copy_seconds_follow_the_bandwidth() -> None:
    links = LinkEstimator(CPU_PROFILE)
    assert links.copy_seconds(Tier.HOST, Tier.DEVICE, 4_000_000_000) == pytest.approx(1.0)


def test_a_device_has_a_profile() -> None:
    assert profile_for_device("cpu") is CPU_PROFILE
    assert profile_for_device("cuda:3") is GPU_PROFILE
