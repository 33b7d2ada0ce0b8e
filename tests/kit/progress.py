"""Snapshots to draw from."""

from typing import Any

import msgspec
from pipemax_worker.contract.geometry import KVGeometry, Tier
from pipemax_worker.contract.statistics import (
    CopyTotals,
    EngineStatistics,
    LinkRate,
    StageTotals,
    TierOccupancy,
)
from pipemax_worker.telemetry.progress import ProgressSnapshot
from pipemax_worker.telemetry.work_totals import WorkTotals

STATISTICS = EngineStatistics(
    num_steps=10,
    num_prompt_tokens=1000,
    num_generated_tokens=200,
    num_cached_tokens=64,
    num_recomputed_tokens=7,
    num_preemptions_by_move=2,
    num_preemptions_by_recompute=1,
    num_invalidated_blocks=3,
    prefetch_budget_bytes=4096,
    estimator_error_ratio=0.04,
    copies=(
        CopyTotals(Tier.DEVICE, Tier.HOST, 1 << 20, 0.5),
        CopyTotals(Tier.HOST, Tier.DEVICE, 3 << 20, 0.25),
        CopyTotals(Tier.HOST, Tier.NVME, 5000, 0.125),
        CopyTotals(Tier.NVME, Tier.HOST, 6000, 0.0625),
    ),
    occupancy=(TierOccupancy(Tier.DEVICE, 3, 2, 1), TierOccupancy(Tier.HOST, 5, 4, 3)),
    stages=(StageTotals(0, 6.0, 1.0, 3.0), StageTotals(1, 10.0, 0.0, 0.0, 0.5)),
    kv_lookups=((Tier.DEVICE, 9), (None, 11)),
    links=(LinkRate(Tier.HOST, Tier.DEVICE, 1e9), LinkRate(Tier.HOST, Tier.NVME, 5e8)),
)

SNAPSHOT = ProgressSnapshot(
    job_name="reviews",
    phase="Running",
    num_done=40,
    num_failed=4,
    num_in_flight=6,
    input_bytes_total=1000,
    input_bytes_done=250,
    elapsed_seconds=30.0,
    tokens_per_second=12.5,
    statistics=STATISTICS,
    failed_reasons={"invalid_json": 3, "missing_field": 1},
    output_place="/data/results",
    closed_ranges=WorkTotals(30, 3, 500, 90, 180, 30, 180),
    open_ranges=WorkTotals(10, 1, 400, 60, 70, 16, 108),
)

GEOMETRY = KVGeometry(
    block_tokens=16,
    kv_dtype="float32",
    num_kv_heads=2,
    head_dim=32,
    layers_of_stage=(1, 1),
    num_device_slots=6,
    num_host_slots=12,
    num_nvme_slots=24,
)


def make_snapshot(**changes: Any) -> ProgressSnapshot:
    return msgspec.structs.replace(SNAPSHOT, **changes)
