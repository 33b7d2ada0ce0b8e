"""The chart's dashboards as tests see them: panels with the queries that Grafana would send."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from kit.tools import ROOT

DASHBOARDS: list[dict[str, Any]] = [
    json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "charts" / "pipemax" / "dashboards").glob("*.json"))
]

VARIABLES = {
    "$__rate_interval": "20s",
    "$namespace": ".*",
    "$job": ".*",
    "$node": ".*",
    "$endurance": "600",
}
"""What the dashboards' variables are where everything is chosen."""


@dataclass(frozen=True)
class Panel:
    dashboard: str
    title: str
    description: str
    queries: tuple[str, ...]

    @property
    def needs_gpu(self) -> bool:
        """Whether it asks for what only workers with GPUs tell."""
        needed = ("pipemax_gpu_", "pipemax_job_gpu_", "pipemax_job_energy_")
        return any(name in query for query in self.queries for name in needed)


def panels_of(dashboard: dict[str, Any]) -> list[Panel]:
    """Of one dashboard, in its order."""
    return [
        Panel(
            dashboard["uid"],
            panel["title"],
            panel["description"],
            tuple(target["expr"] for target in panel["targets"]),
        )
        for panel in dashboard["panels"]
    ]


def fill_in(query: str) -> str:
    """The query with all variables replaced, as Grafana does before it asks."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query
