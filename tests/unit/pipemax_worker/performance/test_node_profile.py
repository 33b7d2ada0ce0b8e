import pytest
from pipemax_worker.errors import JobFileError
from pipemax_worker.performance.batch_shape import BatchShape
from pipemax_worker.performance.node_profile import (
    hardware_names,
    load_node_profile,
    parse_node_profile,
)
from pipemax_worker.performance.step_cost import StageCost

CARDS = ["3090", "4090", "5090", "a10", "h100", "h200", "l20", "l40s"]
SLICES = ["h200-20g", "h200-24g", "h200-slice25", "h200-quarter"]
STAGE = StageCost(15_600_000_000, 7_800_000_000, 65_536, num_layers=16)


def test_the_cards_of_the_plan_are_there() -> None:
    assert list(hardware_names()) == sorted(CARDS + SLICES)


@pytest.mark.parametrize("name", CARDS + SLICES)
def test_every_profile_is_whole_and_has_sources(name: str) -> None:
    profile = load_node_profile(name)
    assert profile.name == name
    assert len(profile.sources) >= 3
    stage = profile.stage_profile()
    assert 0 < stage.host_to_device_bytes_per_second < stage.memory_bandwidth_bytes_per_second
    seconds = profile.step_cost([STAGE]).stage_seconds(BatchShape(16, 0, 16), 0)
    assert STAGE.weight_bytes / profile.gpu.memory_bandwidth_bytes_per_second < seconds < 0.1


def test_a_number_before_the_card_counts_cards() -> None:
    assert load_node_profile("4090").num_gpus == 8
    assert load_node_profile("2x4090").num_gpus == 2
    assert load_node_profile("8X4090").num_gpus == 8


@pytest.mark.parametrize("hardware", ["8x9999", "", "x4090", "0x4090", "65x4090", "4090 ti"])
def test_unknown_hardware_is_refused_with_the_cards_there_are(hardware: str) -> None:
    with pytest.raises(JobFileError, match=hardware or "hardware"):
        load_node_profile(hardware)


def test_many_cards_share_the_memory_of_their_host() -> None:
    one, eight = load_node_profile("1x5090"), load_node_profile("8x5090")
    assert one.stage_profile().host_to_device_bytes_per_second == 54e9
    assert eight.stage_profile().host_to_device_bytes_per_second == pytest.approx(330e9 / 8)


def test_cards_behind_one_switch_share_its_uplink() -> None:
    profile = load_node_profile("4x4090")
    link = profile.link.model_copy(update={"gpus_per_uplink": 2})
    shared = profile.model_copy(update={"link": link}).stage_profile()
    assert shared.host_to_device_bytes_per_second == pytest.approx(12e9)


def test_a_measured_table_wins_over_the_roofline() -> None:
    cost = load_node_profile("h200-24g").step_cost([STAGE])
    overhead = 0.0003 + 16 * 1.5e-5
    assert cost.stage_seconds(BatchShape(64, 0, 64), 0) == pytest.approx(4.15e-3 + overhead)
    assert cost.stage_seconds(BatchShape(256, 0, 256), 0) == pytest.approx(5.98e-3 + overhead)


def test_faults_name_file_and_field() -> None:
    with pytest.raises(JobFileError, match=r"mine\.yaml: title: Field required"):
        parse_node_profile("name: mine\n", "mine.yaml")
    with pytest.raises(JobFileError, match=r"mine\.yaml: not YAML"):
        parse_node_profile("{", "mine.yaml")
