"""Statistics of engines that followed each other."""

from __future__ import annotations

import msgspec
from kit.progress import STATISTICS
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.statistics import CopyTotals, EngineStatistics
from pipemax_worker.runner.total_statistics import COUNTERS, add_statistics

STATES = {
    "num_waiting",
    "num_running",
    "num_preempted",
    "prefetch_budget_bytes",
    "estimator_error_ratio",
    "occupancy",
    "links",
}
SUMS_OF_PARTS = {"copies", "stages", "kv_lookups"}


def test_every_field_is_a_counter_a_state_or_a_sum() -> None:
    """A field that is new must be put into one of these."""
    fields = {field.name for field in msgspec.structs.fields(EngineStatistics)}
    assert fields == STATES | SUMS_OF_PARTS | set(COUNTERS)


def test_counters_add_up() -> None:
    total = add_statistics(STATISTICS, STATISTICS)
    for name in COUNTERS:
        assert getattr(total, name) == 2 * getattr(STATISTICS, name)
    assert total.copies[0] == CopyTotals(Tier.DEVICE, Tier.HOST, 2 << 20, 1.0)
    assert len(total.copies) == len(STATISTICS.copies)
    assert [stage.stage for stage in total.stages] == [0, 1]
    assert total.stages[0].compute_seconds == 12.0
    assert dict(total.kv_lookups) == {Tier.DEVICE: 18, None: 22}


def test_parts_that_only_one_has() -> None:
    only = msgspec.structs.replace(STATISTICS, copies=STATISTICS.copies[:1], stages=())
    assert add_statistics(only, STATISTICS).stages == STATISTICS.stages
    assert len(add_statistics(STATISTICS, only).copies) == 4
    assert add_statistics(EngineStatistics(), STATISTICS) == STATISTICS


def test_the_state_is_the_present_one() -> None:
    present = EngineStatistics(num_waiting=3, estimator_error_ratio=0.5)
    total = add_statistics(STATISTICS, present)
    for name in STATES:
        assert getattr(total, name) == getattr(present, name)
