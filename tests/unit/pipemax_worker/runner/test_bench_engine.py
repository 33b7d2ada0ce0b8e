"""What a run says of itself: the difference of two snapshots, the warm-up left out."""

import pytest
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.statistics import (
    CopyTotals,
    EngineStatistics,
    StageTotals,
    StepRecord,
    TierOccupancy,
)
from pipemax_worker.errors import InvariantError
from pipemax_worker.runner.bench_engine import EngineRun, num_live_blocks, summarise
from pipemax_worker.runner.bench_work import BenchWork

WORK = BenchWork(((1, 2, 3), (4,)), (2, 1))
TOKENS = ((7, 8), (9,))
BEFORE = EngineStatistics(
    num_steps=10,
    num_batched_tokens=100,
    num_recomputed_tokens=1,
    num_preemptions_by_move=1,
    copies=(CopyTotals(Tier.DEVICE, Tier.HOST, 1000, 1.0),),
    stages=(StageTotals(0, 1.0, 2.0, 3.0),),
)
AFTER = EngineStatistics(
    num_steps=14,
    num_batched_tokens=112,
    num_recomputed_tokens=3,
    num_cached_tokens=16,
    num_preemptions_by_move=2,
    num_preemptions_by_recompute=3,
    copies=(
        CopyTotals(Tier.DEVICE, Tier.HOST, 1000, 1.0),
        CopyTotals(Tier.HOST, Tier.DEVICE, 500, 0.5),
    ),
    stages=(StageTotals(0, 1.5, 2.25, 3.0),),
)
STEPS = [StepRecord(11, 6, 4, 0.3), StepRecord(12, 3, 0, 0.1), StepRecord(13, 3, 0, 0.2)]


def run(tokens: tuple[tuple[int, ...], ...] = TOKENS) -> EngineRun:
    return summarise(2.0, WORK, BEFORE, AFTER, STEPS, (40, 10), tokens)


def test_counters_are_differences() -> None:
    measured = run()
    assert measured.num_steps == 4
    assert measured.mean_batch_tokens == pytest.approx(12 / 3)  # of the steps that had rows
    assert measured.median_step_seconds == 0.2
    assert measured.num_preemptions == 4
    assert measured.num_recomputed_tokens == 2
    assert measured.num_cached_tokens == 16
    assert measured.stages == (StageTotals(0, 0.5, 0.25, 0.0),)
    assert (measured.peak_live_blocks, measured.num_device_blocks) == (40, 10)


def test_links_that_moved_nothing_are_left_out() -> None:
    assert run().copies == (CopyTotals(Tier.HOST, Tier.DEVICE, 500, 0.5),)
    assert run().bytes_per_second == 250


def test_rates_count_generated_tokens() -> None:
    assert run().tokens_per_second == 1.5


def test_a_wrong_length_is_no_measurement() -> None:
    with pytest.raises(InvariantError, match="length"):
        run(((7,), (9,)))


def test_a_live_block_is_counted_once() -> None:
    both = (TierOccupancy(Tier.DEVICE, 3, 0, 0), TierOccupancy(Tier.HOST, 12, 5, 0))
    assert num_live_blocks(EngineStatistics(occupancy=both)) == 12
    device_only = (TierOccupancy(Tier.DEVICE, 3, 0, 0), TierOccupancy(Tier.HOST, 0, 0, 0))
    assert num_live_blocks(EngineStatistics(occupancy=device_only)) == 3
