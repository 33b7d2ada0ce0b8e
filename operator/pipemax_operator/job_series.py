"""Gauges of single jobs, as text that is made when a value changes and not when it is asked for.

A thousand jobs have some nine thousand series. ``prometheus_client`` writes each of them anew at
every scrape, in the loop that does the operator's work: a tenth of a second of it. Here a scrape
joins lines that are there already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Key = tuple[str, str]
Labels = tuple[str, ...]


class _Family:
    """One gauge. Values by job and the labels that they have besides, and all lines in one."""

    def __init__(self, name: str, documentation: str, further_labels: Sequence[str]) -> None:
        self.name = name
        self.documentation = documentation
        self.label_names = ("namespace", "job", *further_labels)
        self._values: dict[Key, dict[Labels, float]] = {}
        self._lines: dict[Labels, str] = {}

    def set(self, key: Key, further: Labels, value: float) -> None:
        of_job = self._values.setdefault(key, {})
        if of_job.get(further) != value:
            of_job[further] = value
            self._lines[(*key, *further)] = self._render_line((*key, *further), value)

    def remove(self, key: Key, further: Labels) -> None:
        self._values.get(key, {}).pop(further, None)
        self._lines.pop((*key, *further), None)

    def forget(self, key: Key) -> None:
        for further in self._values.pop(key, {}):
            del self._lines[(*key, *further)]

    def render(self) -> str:
        text = self.documentation.replace("\\", r"\\").replace("\n", r"\n")
        header = f"# HELP {self.name} {text}\n# TYPE {self.name} gauge\n"
        return header + "".join(self._lines.values())

    def as_metric(self) -> Metric:
        labels = list(self.label_names)
        metric = GaugeMetricFamily(self.name, self.documentation, labels=labels)
        for key, of_job in self._values.items():
            for further, value in of_job.items():
                metric.add_metric([*key, *further], value)
        return metric

    def _render_line(self, labels: Labels, value: float) -> str:
        # In prometheus_client's order, so that all pages name a series in one way.
        pairs = sorted(zip(self.label_names, map(_escape, labels), strict=True))
        named = ",".join(f'{name}="{label}"' for name, label in pairs)
        return f"{self.name}{{{named}}} {_number(value)}\n"


class JobSeries(Collector):
    """``families``: name without its prefix -> what it says, and its labels besides namespace and
    job. Has one writer."""

    def __init__(self, families: Mapping[str, tuple[str, Sequence[str]]]) -> None:
        self._families = {
            name: _Family(f"pipemax_{name}", text, further)
            for name, (text, further) in families.items()
        }

    def set(self, name: str, key: Key, value: float | None, *further: str) -> None:
        """``further``: the labels' values besides the key. A value of None ends the series."""
        if value is None:
            self._families[name].remove(key, further)
        else:
            self._families[name].set(key, further, value)

    def forget(self, key: Key) -> None:
        """All series of the job end."""
        for family in self._families.values():
            family.forget(key)

    def exposition(self) -> bytes:
        """In Prometheus' text format."""
        return "".join(family.render() for family in self._families.values()).encode()

    def collect(self) -> Iterator[Metric]:
        """The same, for whoever reads a registry."""
        return (family.as_metric() for family in self._families.values())


def _escape(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    """As Prometheus reads it; whole ones without a fraction, however large."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))
