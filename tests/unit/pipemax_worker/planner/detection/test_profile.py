import pytest
from pipemax_worker.performance.node_profile import load_node_profile, parse_node_profile
from pipemax_worker.planner.detection.cpu import CpuSpeeds
from pipemax_worker.planner.detection.gpus import GpuSpeeds, ListedGpu
from pipemax_worker.planner.detection.profile import (
    host_copy_rate,
    profile_cpu,
    profile_gpus,
    render_profile,
)
from pipemax_worker.preflight.facts import MemoryFacts, NvmeFacts

MEMORY = MemoryFacts(limit=8 << 30, total=64 << 30)
DISK = NvmeFacts("/mnt", is_direct=True, write_bytes_per_second=2e9, read_bytes_per_second=5e9)
SPEEDS = GpuSpeeds(
    memory=9e11,
    load_alone=25e9,
    store_alone=24e9,
    loads=(25e9, 24e9),
    stores=(24e9, 24e9),
    flops=1.2e14,
)


def test_a_processor_is_a_node_of_cores() -> None:
    node = profile_cpu(CpuSpeeds(2, 5e10, 1e10, 4e9), MEMORY, DISK)
    assert (node.device, node.num_gpus) == ("cpu", 2)
    stage = node.stage_profile()
    assert stage.flops_per_second == 5e10
    assert stage.memory_bandwidth_bytes_per_second == 1e10
    assert stage.host_to_device_bytes_per_second == 4e9
    assert node.host.memory_bytes == 8 << 30
    assert node.host.nvme_read_bytes_per_second == 5e9


def test_a_profile_is_read_back_as_it_was() -> None:
    node = profile_cpu(CpuSpeeds(2, 5e10, 1e10, 4e9), MEMORY, None)
    assert parse_node_profile(render_profile(node), "here.yaml") == node
    assert any("assumed: the disk" in source for source in node.sources)


def test_a_known_card_keeps_its_overheads_and_gets_its_measured_speeds() -> None:
    gpus = (ListedGpu("NVIDIA GeForce RTX 4090", 24_000 << 20, 420.0),) * 2
    node, base = profile_gpus(gpus, SPEEDS, MEMORY, DISK), load_node_profile("4090")
    assert (node.name, node.device, node.num_gpus) == ("4090", "cuda", 2)
    assert node.gpu.memory_bytes == 24_000 << 20
    assert node.stage_profile().memory_bandwidth_bytes_per_second == 9e11
    assert node.stage_profile().flops_per_second == 1.2e14
    assert node.gpu.power_watts == 420.0
    assert node.gpu.tile_tokens == base.gpu.tile_tokens
    assert node.link.hop_latency_seconds == base.link.hop_latency_seconds
    assert node.link.host_to_device_bytes_per_second == 25e9
    assert parse_node_profile(render_profile(node), "here.yaml") == node


def test_an_unknown_card_takes_over_no_products_and_no_price() -> None:
    gpus = (ListedGpu("NVIDIA Q7", 40_000 << 20, None),)
    node = profile_gpus(gpus, SPEEDS, MEMORY, None)
    assert node.name == "detected"
    assert node.gpu.gemm_seconds == {}
    assert node.gpu.idle_power_watts <= node.gpu.power_watts
    assert any("another card" in source for source in node.sources)


@pytest.mark.parametrize(
    ("loads", "stores", "expected"),
    [((25e9, 25e9), (24e9, 24e9), 98e9), ((15e9, 15e9), (14e9, 14e9), 30e9)],
)
def test_cards_that_slow_each_other_down_show_the_hosts_limit(
    loads: tuple[float, ...], stores: tuple[float, ...], expected: float
) -> None:
    speeds = GpuSpeeds(9e11, 25e9, 24e9, loads, stores, 1e14)
    assert host_copy_rate(speeds) == expected
