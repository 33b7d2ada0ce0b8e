from itertools import pairwise
from typing import Any

import pytest
from kit.simulations import make_settings
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.planner.simulation import SimulationResult, simulate
from pipemax_worker.planner.timeline import (
    Look,
    Timeline,
    Turn,
    busy_shares,
    link_shares,
    record,
    stage_shares,
    tier_shares,
)
from pipemax_worker.planner.workload import Workload

WORK = Workload(tuple((20, 10 + n % 5) for n in range(80)))
SETTINGS: dict[str, Any] = {"policy": "pipemax", "device": 60, "host": 400, "look_ahead": 16}


@pytest.fixture(scope="module")
def recorded() -> tuple[SimulationResult, Timeline]:
    return record(make_settings(**SETTINGS), WORK)


def test_recording_changes_nothing(recorded: tuple[SimulationResult, Timeline]) -> None:
    assert recorded[0] == simulate(make_settings(**SETTINGS), WORK)


def test_turns_add_up_to_what_the_stages_report(
    recorded: tuple[SimulationResult, Timeline],
) -> None:
    result, timeline = recorded
    for stage in result.statistics.stages:
        turns = [turn for turn in timeline.turns if turn.stage == stage.stage]
        assert sum(turn.end - turn.begin for turn in turns) == pytest.approx(stage.compute_seconds)
        assert sum(turn.stall_seconds for turn in turns) == pytest.approx(stage.stall_seconds)
        assert all(a.end <= b.begin + 1e-9 for a, b in pairwise(turns))
        assert turns[-1].end <= timeline.seconds + 1e-9


def test_copies_are_on_their_links(recorded: tuple[SimulationResult, Timeline]) -> None:
    result, timeline = recorded
    loads = [u for u in timeline.link_uses if (u.source, u.target) == (Tier.HOST, Tier.DEVICE)]
    assert len({use.stage for use in loads}) == 4
    (total,) = [c for c in result.statistics.copies if c.target == Tier.DEVICE]
    on_first = sum(use.end - use.begin for use in loads if use.stage == 0)
    assert on_first == pytest.approx(total.seconds, rel=0.05)
    assert 0.0 < max(link_shares(timeline, Tier.HOST, Tier.DEVICE, 20)) <= 1.0


def test_tiers_fill_and_empty(recorded: tuple[SimulationResult, Timeline]) -> None:
    assert max(tier_shares(recorded[1], Tier.DEVICE, 20)) > 0.9
    on_host = tier_shares(recorded[1], Tier.HOST, 20)
    assert on_host[0] < max(on_host) > on_host[-1]
    assert any(look.num_waiting for look in recorded[1].looks)


def test_spans_are_cut_at_the_borders_of_bins() -> None:
    assert busy_shares([(0.5, 1.5), (3.0, 4.0)], 4.0, 4) == pytest.approx([0.5, 0.5, 0.0, 1.0])
    assert busy_shares([], 4.0, 2) == [0.0, 0.0]


def test_a_stage_is_asked_for_its_own_turns() -> None:
    turns = (Turn(0, 0, 0.0, 1.0, 0.0, 0.0, 1), Turn(1, 0, 1.0, 2.0, 0.0, 0.0, 1))
    timeline = Timeline(2, 2.0, turns, (), ())
    assert stage_shares(timeline, 0, 2) == [1.0, 0.0]
    assert stage_shares(timeline, 1, 2) == [0.0, 1.0]


def test_a_tier_is_as_full_as_it_was_last_seen() -> None:
    looks = (Look(0.5, 1, 0, {Tier.HOST: 0.25}), Look(2.5, 1, 0, {Tier.HOST: 0.75}))
    timeline = Timeline(1, 4.0, (), (), looks)
    assert tier_shares(timeline, Tier.HOST, 4) == [0.25, 0.25, 0.75, 0.75]
    assert tier_shares(timeline, Tier.NVME, 2) == [0.0, 0.0]
