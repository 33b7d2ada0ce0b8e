"""Prometheus metrics of a worker (design: prefix ``pipemax_``, base units, no per-request labels).

Totals are read from the engine's own snapshot at scrape time, so a counter here can never differ
from the summary; only histograms are fed step by step. Only the driver exports: stages report to
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from pipemax_worker.contract.geometry import KVGeometry, Tier
from pipemax_worker.contract.statistics import EngineStatistics, StepRecord
from pipemax_worker.telemetry.progress import ProgressSnapshot, tier_name

STEP_SECONDS_BUCKETS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.5, 1, 2, 5)
BATCH_TOKENS_BUCKETS = (1, 8, 16, 32, 64, 96, 128, 160, 192, 256, 384, 512, 1024, 2048, 4096, 8192)

Snapshot = Callable[[], ProgressSnapshot]


class Metrics:
    """All metrics of one run, in a registry of their own.

    ``snapshot`` is called at each scrape, from the HTTP thread: it must be cheap and thread-safe
    (the runner publishes one frozen value). ``load_seconds``: of each stage, in order.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        geometry: KVGeometry,
        version: str,
        load_seconds: Sequence[float] = (),
    ) -> None:
        self.registry = CollectorRegistry()
        self._steps = Histogram(
            "pipemax_step_duration_seconds",
            "Forward time of one micro-batch on its slowest stage.",
            ["phase"],
            buckets=STEP_SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._batch_tokens = Histogram(
            "pipemax_batch_tokens",
            "Tokens in one micro-batch.",
            buckets=BATCH_TOKENS_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(_RunCollector(snapshot, geometry, version, tuple(load_seconds)))

    def observe_step(self, step: StepRecord) -> None:
        """Count one finished micro-batch. An empty one (copies only) is not a step."""
        if step.num_tokens == 0:
            return
        phase = "decode" if step.num_prefill_tokens == 0 else "mixed"
        if step.num_prefill_tokens == step.num_tokens:
            phase = "prefill"
        self._steps.labels(phase).observe(step.seconds)
        self._batch_tokens.observe(step.num_tokens)

    def exposition(self) -> bytes:
        return generate_latest(self.registry)


class _RunCollector(Collector):
    def __init__(
        self,
        snapshot: Snapshot,
        geometry: KVGeometry,
        version: str,
        load_seconds: tuple[float, ...],
    ) -> None:
        self._load_seconds = load_seconds
        self._snapshot = snapshot
        self._geometry = geometry
        self._version = version

    def describe(self) -> Iterator[Metric]:
        """Nothing is collected at registration: the run may not have begun."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot()
        yield _gauge("build_info", "Version of the worker.", {"version": self._version}, 1)
        load = GaugeMetricFamily(
            "pipemax_model_load_seconds",
            "Time a stage took to load its layers and allocate its tiers.",
            labels=["stage"],
        )
        for stage, seconds in enumerate(self._load_seconds):
            load.add_metric([str(stage)], seconds)
        yield load
        yield from _request_metrics(snapshot)
        yield from _token_metrics(snapshot.statistics)
        yield from _stage_metrics(snapshot.statistics)
        yield from _tier_metrics(snapshot.statistics, self._geometry)
        yield from _swap_metrics(snapshot.statistics)


def _gauge(name: str, documentation: str, labels: dict[str, str], value: float) -> Metric:
    family = GaugeMetricFamily(f"pipemax_{name}", documentation, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _counter(
    name: str, documentation: str, label: str, values: list[tuple[str, float]]
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"pipemax_{name}", documentation, labels=[label])
    for label_value, value in values:
        family.add_metric([label_value], value)
    return family


def _request_metrics(snapshot: ProgressSnapshot) -> Iterator[Metric]:
    yield _counter(
        "requests",
        "Input lines that have a record.",
        "result",
        [
            ("succeeded", snapshot.num_done - snapshot.num_failed),
            ("failed", snapshot.num_failed),
        ],
    )
    yield _gauge(
        "requests_in_flight", "Requests read and not yet finished.", {}, snapshot.num_in_flight
    )
    yield CounterMetricFamily(
        "pipemax_pipeline_restarts",
        "Times the pipeline was started again after a stage had died.",
        value=snapshot.num_pipeline_restarts,
    )
    yield _gauge("job_progress_ratio", "Share of the input done.", {}, snapshot.fraction_done)


def _token_metrics(statistics: EngineStatistics) -> Iterator[Metric]:
    yield _counter(
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
    yield _counter(
        "preemptions",
        "Running requests that had to give up their blocks, by what became of the KV.",
        "kind",
        [
            ("move", statistics.num_preemptions_by_move),
            ("recompute", statistics.num_preemptions_by_recompute),
        ],
    )
    yield _gauge(
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
    for stage in statistics.stages:
        busy = stage.compute_seconds + stage.stall_seconds + stage.wait_seconds
        bubbles.add_metric([str(stage.stage)], stage.wait_seconds / busy if busy else 0.0)
    yield bubbles
    yield _counter(
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
    nvme = {Tier.HOST: 0, Tier.NVME: 0}
    for copy in statistics.copies:
        names = [tier_name(copy.source), tier_name(copy.target)]
        num_bytes.add_metric(names, copy.num_bytes)
        seconds.add_metric(names, copy.seconds)
        if Tier.NVME in (copy.source, copy.target):
            nvme[copy.target] += copy.num_bytes
    yield num_bytes
    yield seconds
    yield CounterMetricFamily(
        "pipemax_nvme_read_bytes", "KV bytes read from NVMe.", value=nvme[Tier.HOST]
    )
    yield CounterMetricFamily(
        "pipemax_nvme_written_bytes", "KV bytes written to NVMe.", value=nvme[Tier.NVME]
    )
    yield CounterMetricFamily(
        "pipemax_nvme_io_errors",
        "Blocks lost to a bad checksum or a failed read.",
        value=statistics.num_invalidated_blocks,
    )
    yield _gauge(
        "prefetch_budget_bytes",
        "What the next micro-batch may load in one step.",
        {},
        statistics.prefetch_budget_bytes,
    )
