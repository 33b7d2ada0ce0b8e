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

from pipemax_worker.contract.geometry import KVGeometry
from pipemax_worker.contract.statistics import StepRecord
from pipemax_worker.telemetry.energy_meter import GpuReading
from pipemax_worker.telemetry.engine_metrics import engine_metrics
from pipemax_worker.telemetry.families import counter, gauge
from pipemax_worker.telemetry.gpu_metrics import gpu_metrics
from pipemax_worker.telemetry.progress import ProgressSnapshot

STEP_SECONDS_BUCKETS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.5, 1, 2, 5)
BATCH_TOKENS_BUCKETS = (1, 8, 16, 32, 64, 96, 128, 160, 192, 256, 384, 512, 1024, 2048, 4096, 8192)

Snapshot = Callable[[], ProgressSnapshot]


class Metrics:
    """All metrics of one run, in a registry of their own.

    ``snapshot`` is called at each scrape, from the HTTP thread: it must be cheap and thread-safe
    (the runner publishes one frozen value), and so must ``gpus``. ``load_seconds``: of each stage,
    in order.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        geometry: KVGeometry,
        version: str,
        load_seconds: Sequence[float] = (),
        gpus: Callable[[], Sequence[GpuReading]] = tuple,
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
        self.registry.register(
            _RunCollector(snapshot, geometry, version, tuple(load_seconds), gpus)
        )

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
        gpus: Callable[[], Sequence[GpuReading]],
    ) -> None:
        self._gpus = gpus
        self._load_seconds = load_seconds
        self._snapshot = snapshot
        self._geometry = geometry
        self._version = version

    def describe(self) -> Iterator[Metric]:
        """Nothing is collected at registration: the run may not have begun."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot()
        yield gauge("build_info", "Version of the worker.", {"version": self._version}, 1)
        load = GaugeMetricFamily(
            "pipemax_model_load_seconds",
            "Time a stage took to load its layers and allocate its tiers.",
            labels=["stage"],
        )
        for stage, seconds in enumerate(self._load_seconds):
            load.add_metric([str(stage)], seconds)
        yield load
        yield from _request_metrics(snapshot)
        yield from engine_metrics(snapshot.statistics, self._geometry)
        if readings := self._gpus():
            yield from gpu_metrics(readings)


def _request_metrics(snapshot: ProgressSnapshot) -> Iterator[Metric]:
    yield counter(
        "requests",
        "Input lines that have a record.",
        "result",
        [
            ("succeeded", snapshot.num_done - snapshot.num_failed),
            ("failed", snapshot.num_failed),
        ],
    )
    yield gauge(
        "requests_in_flight", "Requests read and not yet finished.", {}, snapshot.num_in_flight
    )
    yield CounterMetricFamily(
        "pipemax_pipeline_restarts",
        "Times the pipeline was started again after a stage had died.",
        value=snapshot.num_pipeline_restarts,
    )
    yield gauge("job_progress_ratio", "Share of the input done.", {}, snapshot.fraction_done)
    remaining = GaugeMetricFamily(
        "pipemax_run_remaining_seconds",
        "Time left at this run's rate so far; none until it has done one percent.",
    )
    if snapshot.remaining_seconds is not None:
        remaining.add_metric([], snapshot.remaining_seconds)
    yield remaining
