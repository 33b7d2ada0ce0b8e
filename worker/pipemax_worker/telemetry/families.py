"""Metric families of one value, or of one label's values."""

from __future__ import annotations

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


def gauge(name: str, documentation: str, labels: dict[str, str], value: float) -> Metric:
    family = GaugeMetricFamily(f"pipemax_{name}", documentation, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def counter(
    name: str, documentation: str, label: str, values: list[tuple[str, float]]
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"pipemax_{name}", documentation, labels=[label])
    for label_value, value in values:
        family.add_metric([label_value], value)
    return family
