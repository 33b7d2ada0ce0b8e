"""Metrics: names, labels and values as Prometheus itself reads them."""

from kit.progress import GEOMETRY, make_snapshot
from pipemax_worker.contract.statistics import EngineStatistics, StepRecord
from pipemax_worker.telemetry.energy_meter import GpuReading
from pipemax_worker.telemetry.metrics import Metrics
from prometheus_client.parser import text_string_to_metric_families

DESIGN_NAMES = {
    "pipemax_tokens_total",
    "pipemax_requests_total",
    "pipemax_step_duration_seconds_bucket",
    "pipemax_batch_tokens_bucket",
    "pipemax_pipeline_bubble_ratio",
    "pipemax_kv_blocks",
    "pipemax_kv_tier_capacity_bytes",
    "pipemax_kv_swap_bytes_total",
    "pipemax_kv_swap_seconds_total",
    "pipemax_kv_stall_seconds_total",
    "pipemax_grammar_wait_seconds_total",
    "pipemax_prefetch_budget_bytes",
    "pipemax_kv_lookups_total",
    "pipemax_nvme_read_bytes_total",
    "pipemax_nvme_written_bytes_total",
    "pipemax_nvme_io_errors_total",
    "pipemax_estimator_error_ratio",
    "pipemax_build_info",
    "pipemax_model_load_seconds",
    "pipemax_pipeline_restarts_total",
    "pipemax_stage_seconds_total",
    "pipemax_engine_requests",
    "pipemax_kv_link_limit_bytes_per_second",
    "pipemax_run_remaining_seconds",
}


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def make_metrics() -> Metrics:
    metrics = Metrics(lambda: make_snapshot(), GEOMETRY, "1.2.3", [0.5, 0.25])
    metrics.observe_step(StepRecord(0, num_tokens=10, num_prefill_tokens=0, seconds=0.003))
    return metrics


def test_every_metric_of_the_design_is_exported() -> None:
    names = {name for name, _ in samples(make_metrics())}
    assert names >= DESIGN_NAMES


def test_values_come_from_the_snapshot() -> None:
    values = samples(make_metrics())
    assert values["pipemax_pipeline_restarts_total", ()] == 0
    assert values["pipemax_tokens_total", (("kind", "generated"),)] == 200
    assert values["pipemax_requests_total", (("result", "succeeded"),)] == 36
    assert values["pipemax_requests_total", (("result", "failed"),)] == 4
    assert values["pipemax_pipeline_bubble_ratio", (("stage", "0"),)] == 0.3
    assert values["pipemax_kv_stall_seconds_total", (("stage", "0"),)] == 1.0
    assert values["pipemax_grammar_wait_seconds_total", ()] == 0.5
    assert values["pipemax_model_load_seconds", (("stage", "1"),)] == 0.25
    swap = (("source", "host"), ("target", "device"))
    assert values["pipemax_kv_swap_bytes_total", swap] == 3 << 20
    assert values["pipemax_nvme_written_bytes_total", ()] == 5000
    assert values["pipemax_nvme_read_bytes_total", ()] == 6000
    assert values["pipemax_kv_blocks", (("state", "cached"), ("tier", "host"))] == 4
    assert values["pipemax_kv_lookups_total", (("result", "miss"), ("tier", "none"))] == 11
    assert values["pipemax_kv_link_limit_bytes_per_second", swap] == 2e9, "of two stages"
    assert values["pipemax_stage_seconds_total", (("stage", "0"), ("state", "compute"))] == 6.0
    assert values["pipemax_stage_seconds_total", (("stage", "0"), ("state", "wait"))] == 3.0
    assert values["pipemax_run_remaining_seconds", ()] == 90.0
    capacity = values["pipemax_kv_tier_capacity_bytes", (("tier", "nvme"),)]
    assert capacity == 24 * 2 * 8192


def test_steps_are_split_by_phase_and_empty_ones_do_not_count() -> None:
    metrics = make_metrics()
    metrics.observe_step(StepRecord(1, num_tokens=0, num_prefill_tokens=0, seconds=0.0))
    metrics.observe_step(StepRecord(2, num_tokens=8, num_prefill_tokens=8, seconds=0.1))
    metrics.observe_step(StepRecord(3, num_tokens=8, num_prefill_tokens=3, seconds=0.1))
    values = samples(metrics)
    for phase in ("decode", "prefill", "mixed"):
        assert values["pipemax_step_duration_seconds_count", (("phase", phase),)] == 1
    assert values["pipemax_batch_tokens_sum", ()] == 26


def test_an_idle_run_divides_by_nothing() -> None:
    idle = make_snapshot(statistics=EngineStatistics(), input_bytes_total=0)
    values = samples(Metrics(lambda: idle, GEOMETRY, "1"))
    assert values["pipemax_job_progress_ratio", ()] == 1.0


def test_a_link_has_its_series_before_its_first_copy() -> None:
    idle = make_snapshot(statistics=EngineStatistics(), input_bytes_done=0)
    values = samples(Metrics(lambda: idle, GEOMETRY, "1"))
    for source, target in (("device", "host"), ("host", "device"), ("host", "nvme")):
        link = (("source", source), ("target", target))
        assert values["pipemax_kv_swap_bytes_total", link] == 0
    assert values["pipemax_nvme_written_bytes_total", ()] == 0
    assert ("pipemax_run_remaining_seconds", ()) not in values, "nothing is known yet"


def test_gpus_have_series_for_what_is_measured() -> None:
    readings = (GpuReading(0, 310.5, 5000.0, 20.0), GpuReading(1, None, None, 20.0))
    values = samples(Metrics(lambda: make_snapshot(), GEOMETRY, "1", gpus=lambda: readings))
    assert values["pipemax_gpu_power_watts", (("gpu", "0"),)] == 310.5
    assert values["pipemax_gpu_energy_joules_total", (("gpu", "0"),)] == 5000.0
    assert values["pipemax_gpu_seconds_total", (("gpu", "1"),)] == 20.0
    assert ("pipemax_gpu_power_watts", (("gpu", "1"),)) not in values
    assert ("pipemax_gpu_energy_joules_total", (("gpu", "1"),)) not in values
    on_cpu = samples(make_metrics())
    assert not [name for name, _ in on_cpu if name.startswith("pipemax_gpu")]
