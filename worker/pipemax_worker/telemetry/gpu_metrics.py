"""What the meter says of the GPUs, as metrics. Only where there are GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pipemax_worker.telemetry.energy_meter import GpuReading


def gpu_metrics(readings: Sequence[GpuReading]) -> Iterator[Metric]:
    """What is not measured has no series: a zero would be taken for one."""
    power = GaugeMetricFamily(
        "pipemax_gpu_power_watts",
        "What the GPU of a stage draws, by NVML; an average over a second on most GPUs.",
        labels=["gpu"],
    )
    energy = CounterMetricFamily(
        "pipemax_gpu_energy_joules",
        "Energy that the GPU of a stage has taken, busy or not, since the run began.",
        labels=["gpu"],
    )
    seconds = CounterMetricFamily(
        "pipemax_gpu_seconds",
        "Time for which the GPU of a stage was held, busy or not.",
        labels=["gpu"],
    )
    for reading in readings:
        labels = [str(reading.gpu)]
        if reading.watts is not None:
            power.add_metric(labels, reading.watts)
        if reading.joules is not None:
            energy.add_metric(labels, reading.joules)
        seconds.add_metric(labels, reading.seconds)
    yield from (power, energy, seconds)
