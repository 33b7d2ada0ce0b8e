"""What a panel shows: the answers of Prometheus to its queries, over a span of time."""

from __future__ import annotations

import json
import math
import re
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

TIMEOUT_SECONDS = 30.0
NUM_POINTS = 240


@dataclass(frozen=True)
class Span:
    """``begin`` and ``end``: Unix times. ``rate_interval_seconds``: what `$__rate_interval` is."""

    begin: float
    end: float
    rate_interval_seconds: int

    @property
    def step_seconds(self) -> float:
        return max(1.0, (self.end - self.begin) / NUM_POINTS)


@dataclass(frozen=True)
class Series:
    """One line: ``values`` at ``times``, none where Prometheus had none."""

    name: str
    labels: Mapping[str, str]
    times: tuple[float, ...]
    values: tuple[float, ...]

    @property
    def last(self) -> float:
        """The last value, as Grafana's `lastNotNull`."""
        return self.values[-1]


def fill_in(query: str, dashboard: Json, rate_interval_seconds: int) -> str:
    """The query with all variables replaced, everything chosen, as Grafana does before it asks."""
    query = query.replace("$__rate_interval", f"{rate_interval_seconds}s")
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            query = query.replace(f"${variable['name']}", variable["allValue"])
        if variable["type"] == "textbox":
            query = query.replace(f"${variable['name']}", variable["query"])
    return query


def legend_of(template: str, labels: Mapping[str, str]) -> str:
    """``{{label}}`` replaced by its value. Where the legend is left to Grafana, all labels."""
    if template == "__auto":
        return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()) if key[0] != "_")
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), template)


class RangeQueries:
    """Asks a Prometheus at ``address`` for ``span``."""

    def __init__(self, address: str, span: Span) -> None:
        self._address = address
        self._span = span

    def series_of(self, panel: Json, dashboard: Json) -> list[Series]:
        """Of all queries of the panel, in their order. Raises HTTPError where one is refused."""
        found: list[Series] = []
        for target in panel["targets"]:
            query = fill_in(target["expr"], dashboard, self._span.rate_interval_seconds)
            for one in self._ask(query, is_instant=target["instant"]):
                points = [(float(time), float(text)) for time, text in one["values"]]
                points = [(time, value) for time, value in points if math.isfinite(value)]
                if points:
                    name = legend_of(target["legendFormat"], one["metric"])
                    times, values = zip(*points, strict=True)
                    found.append(Series(name, one["metric"], times, values))
        return found

    def _ask(self, query: str, is_instant: bool) -> list[Json]:
        """Series with ``values``, be it one at the end of the span."""
        span = self._span
        times = {"start": span.begin, "end": span.end, "step": span.step_seconds}
        parameters = {"query": query, **({"time": span.end} if is_instant else times)}
        page = "query" if is_instant else "query_range"
        address = f"{self._address}/api/v1/{page}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as answer:
            found: list[Json] = json.load(answer)["data"]["result"]
        return [{**one, "values": [one["value"]]} for one in found] if is_instant else found
