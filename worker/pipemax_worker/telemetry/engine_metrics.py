"""What the engine's totals are as metrics: tokens, stages, tiers, links."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pipemax_worker.contract.geometry import KVGeometry, Tier
from pipemax_worker.contract.statistics import EngineStatistics
from pipemax_worker.performance.link import LINKS
from pipemax_worker.telemetry.families import counter, gauge
from pipemax_worker.telemetry.progress import tier_name


def engine_metrics(statistics: EngineStatistics, geometry: KVGeometry) -> Iterator[Metric]:
    """All of them."""
    yield from _token_metrics(statistics)
    yield from _stage_metrics(statistics)
    yield from _tier_metrics(statistics, geometry)
    yield from _swap_metrics(statistics)
    yield _link_metrics(statistics, geometry)


def _token_metrics(statistics: EngineStatistics) -> Iterator[Metric]:
    yield counter(
        "tokens",
        "Tokens by how their KV came to be; generated counts sampled tokens.",
        "kind",
        [
            ("prompt", statistics.num_prompt_tokens),
            ("generated", statistics.num_generated_tokens),
            ("cached", statistics.num_cached_tokens),
            ("recomputed", statistics.num_recomputed_tokens),
            ("restored", statistics.num_restored_tokens),
        ],
    )
    yield counter(
        "preemptions",
        "Running requests that had to give up their blocks, by what became of the KV.",
        "kind",
        [
            ("move", statistics.num_preemptions_by_move),
            ("recompute", statistics.num_preemptions_by_recompute),
        ],
    )
    queues = GaugeMetricFamily(
        "pipemax_engine_requests", "Choices that the engine holds.", labels=["state"]
    )
    queues.add_metric(["waiting"], statistics.num_waiting)
    queues.add_metric(["running"], statistics.num_running)
    queues.add_metric(["preempted"], statistics.num_preempted)
    yield queues
    yield gauge(
        "estimator_error_ratio",
        "Mean relative error of the predicted step time.",
        {},
        statistics.estimator_error_ratio,
    )


def _stage_metrics(statistics: EngineStatistics) -> Iterator[Metric]:
    bubbles = GaugeMetricFamily(
        "pipemax_pipeline_bubble_ratio",
        "Share of a stage's time spent waiting for work of the stage before it.",
        labels=["stage"],
    )
    seconds = CounterMetricFamily(
        "pipemax_stage_seconds",
        "Where a stage's time went: computing, stalled by KV loads, or waiting for work.",
        labels=["stage", "state"],
    )
    for stage in statistics.stages:
        seconds.add_metric([str(stage.stage), "compute"], stage.compute_seconds)
        seconds.add_metric([str(stage.stage), "stall"], stage.stall_seconds)
        seconds.add_metric([str(stage.stage), "wait"], stage.wait_seconds)
        busy = stage.compute_seconds + stage.stall_seconds + stage.wait_seconds
        bubbles.add_metric([str(stage.stage)], stage.wait_seconds / busy if busy else 0.0)
    yield bubbles
    yield seconds
    yield counter(
        "kv_stall_seconds",
        "Time a stage waited for KV loads before a forward.",
        "stage",
        [(str(stage.stage), stage.stall_seconds) for stage in statistics.stages],
    )
    yield CounterMetricFamily(
        "pipemax_grammar_wait_seconds",
        "Time the last stage waited for grammar masks before sampling.",
        value=sum(stage.grammar_wait_seconds for stage in statistics.stages),
    )


def _tier_metrics(statistics: EngineStatistics, geometry: KVGeometry) -> Iterator[Metric]:
    blocks = GaugeMetricFamily("pipemax_kv_blocks", "KV blocks.", labels=["tier", "state"])
    capacity = GaugeMetricFamily(
        "pipemax_kv_tier_capacity_bytes", "Size of a tier, all stages.", labels=["tier"]
    )
    for occupancy in statistics.occupancy:
        name = tier_name(occupancy.tier)
        blocks.add_metric([name, "used"], occupancy.num_used)
        blocks.add_metric([name, "cached"], occupancy.num_cached)
        blocks.add_metric([name, "free"], occupancy.num_free)
    for tier in Tier:
        capacity.add_metric([tier_name(tier)], geometry.num_slots(tier) * geometry.block_bytes())
    yield blocks
    yield capacity
    lookups = CounterMetricFamily(
        "pipemax_kv_lookups", "Prompt blocks looked up for sharing.", labels=["tier", "result"]
    )
    for found_in, count in statistics.kv_lookups:
        labels = ["none", "miss"] if found_in is None else [tier_name(found_in), "hit"]
        lookups.add_metric(labels, count)
    yield lookups


def _swap_metrics(statistics: EngineStatistics) -> Iterator[Metric]:
    labels = ["source", "target"]
    num_bytes = CounterMetricFamily(
        "pipemax_kv_swap_bytes", "KV bytes copied between tiers, all stages.", labels=labels
    )
    seconds = CounterMetricFamily(
        "pipemax_kv_swap_seconds", "Time of those copies, slowest stage.", labels=labels
    )
    # A link that has moved nothing has its series: rates need the zero before the first copy.
    moved = {link: (0, 0.0) for link in LINKS}
    moved |= {
        (copy.source, copy.target): (copy.num_bytes, copy.seconds) for copy in statistics.copies
    }
    for (source, target), (bytes_moved, spent) in moved.items():
        num_bytes.add_metric([tier_name(source), tier_name(target)], bytes_moved)
        seconds.add_metric([tier_name(source), tier_name(target)], spent)
    yield num_bytes
    yield seconds
    yield CounterMetricFamily(
        "pipemax_nvme_read_bytes", "KV bytes read from NVMe.", value=moved[Tier.NVME, Tier.HOST][0]
    )
    yield CounterMetricFamily(
        "pipemax_nvme_written_bytes",
        "KV bytes written to NVMe.",
        value=moved[Tier.HOST, Tier.NVME][0],
    )
    yield CounterMetricFamily(
        "pipemax_nvme_io_errors",
        "Blocks lost to a bad checksum or a failed read.",
        value=statistics.num_invalidated_blocks,
    )
    yield gauge(
        "prefetch_budget_bytes",
        "What the next micro-batch may load in one step.",
        {},
        statistics.prefetch_budget_bytes,
    )


def _link_metrics(statistics: EngineStatistics, geometry: KVGeometry) -> Metric:
    """Each stage has a link of its own to the tiers below it, so the limits add up."""
    family = GaugeMetricFamily(
        "pipemax_kv_link_limit_bytes_per_second",
        "Measured bandwidth between tiers, all stages.",
        labels=["source", "target"],
    )
    for link in statistics.links:
        names = [tier_name(link.source), tier_name(link.target)]
        family.add_metric(names, link.bytes_per_second * geometry.num_stages)
    return family
