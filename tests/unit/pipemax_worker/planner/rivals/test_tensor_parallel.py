"""A model cut across its width: bytes, room and time."""

import msgspec
import pytest
from kit.simulations import make_settings
from pipemax_worker.performance.batch_shape import BatchShape
from pipemax_worker.performance.stage_costs import derive_stage_costs
from pipemax_worker.planner.rivals import simulate_rival, tensor_parallel
from pipemax_worker.planner.workload import Workload

SETTINGS = make_settings(device=200)


def test_the_cards_hold_together_what_the_stages_do() -> None:
    stages = derive_stage_costs(SETTINGS.model, SETTINGS.geometry, SETTINGS.dtype)
    card = tensor_parallel.card_cost(SETTINGS)
    assert 4 * card.num_parameters == sum(stage.num_parameters for stage in stages)
    assert 4 * card.num_head_parameters == stages[-1].num_head_parameters
    assert card.num_layers == SETTINGS.model.num_hidden_layers


def test_fewer_kv_heads_than_cards_are_held_more_than_once() -> None:
    """Two heads on four cards: each holds one, half of every token's KV."""
    assert tensor_parallel.kv_share(SETTINGS) == 0.5
    whole_bytes = sum(
        cost.kv_bytes_per_token
        for cost in derive_stage_costs(SETTINGS.model, SETTINGS.geometry, SETTINGS.dtype)
    )
    assert tensor_parallel.card_cost(SETTINGS).kv_bytes_per_token == whole_bytes / 2


def test_an_even_cut_of_the_head_leaves_more_room_than_the_tightest_stage_has() -> None:
    geometry = msgspec.structs.replace(SETTINGS.geometry, num_kv_heads=4)
    model = msgspec.structs.replace(SETTINGS.model, num_key_value_heads=4)
    scheduler = msgspec.structs.replace(SETTINGS.scheduler, geometry=geometry)
    settings = msgspec.structs.replace(SETTINGS, model=model, scheduler=scheduler)
    assert tensor_parallel.num_slots(settings) > settings.geometry.num_device_slots


def test_each_layer_waits_for_two_sums() -> None:
    cost = tensor_parallel.derive_cost(SETTINGS)
    few, many = BatchShape(1, 100, 1), BatchShape(1000, 100, 1)
    extra_bytes = 999 * SETTINGS.model.hidden_size * 2
    bus = 1e9 / 4 / 2  # each card's half of its share of the host's memory
    expected = 2 * 8 * 2 * 3 / 4 * extra_bytes / bus
    grown = cost.collective_seconds(many) - cost.collective_seconds(few)
    assert grown == pytest.approx(expected, rel=0.1)
    assert cost.stage_seconds(many, 0) > cost.collective_seconds(many)


def test_all_cards_compute_at_once() -> None:
    result = simulate_rival("vllm-tp", SETTINGS, Workload(((20, 30),) * 40))
    assert len(result.busy_ratios) == 4
    assert result.busy_ratios[0] > 0.9
    assert result.num_requests == 40
    assert result.statistics.num_generated_tokens == 40 * 30
