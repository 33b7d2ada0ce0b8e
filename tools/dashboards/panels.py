"""What a Grafana dashboard is made of: panels of queries, laid out in rows; and its variables.

The names are those of Grafana's dashboard schema (version 39, Grafana 10 and newer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dashboards.panel import Json, Panel, Query, field_defaults, options_of

SCHEMA_VERSION = 39
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
SHARED_CROSSHAIR = 1

JOB = 'namespace=~"$namespace", job=~"$job"'
"""Selects the operator's series of jobs."""
WORKER = f'{JOB}, node=~"$node"'
"""Selects the workers' series."""


@dataclass(frozen=True)
class Dashboard:
    """``panels`` fill rows from left to right; those of one row should be equally high."""

    name: str
    title: str
    panels: tuple[Panel, ...]
    has_endurance: bool = False


def panel(title: str, description: str, *queries: Query | str, **options: Any) -> Panel:
    """A panel; a query without a legend may be its expression alone."""
    whole = tuple(Query(one) if isinstance(one, str) else one for one in queries)
    return Panel(title, description, whole, **options)


def build_dashboard(dashboard: Dashboard) -> Json:
    """As Grafana imports it."""
    return {
        "uid": f"pipemax-{dashboard.name}",
        "title": f"PipeMax / {dashboard.title}",
        "tags": ["pipemax"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": SHARED_CROSSHAIR,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "links": [
            {
                **{"type": "dashboards", "title": "PipeMax", "tags": ["pipemax"]},
                **{"asDropdown": False, "includeVars": True, "keepTime": True},
                **{"icon": "external link", "targetBlank": False, "tooltip": "", "url": ""},
            }
        ],
        "templating": {"list": _variables(dashboard.has_endurance)},
        "annotations": {"list": []},
        "panels": _lay_out(dashboard.panels),
    }


def _lay_out(panels: Sequence[Panel]) -> list[Json]:
    laid: list[Json] = []
    x = y = row_height = 0
    for number, one in enumerate(panels, start=1):
        if x + one.width > COLUMNS:
            x, y, row_height = 0, y + row_height, 0
        laid.append(_build_panel(one, number, {"h": one.height, "w": one.width, "x": x, "y": y}))
        x, row_height = x + one.width, max(row_height, one.height)
    return laid


def _build_panel(one: Panel, number: int, place: Json) -> Json:
    return {
        "id": number,
        "type": one.kind,
        "title": one.title,
        "description": one.description,
        "datasource": DATA_SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": field_defaults(one), "overrides": []},
        "options": options_of(one),
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATA_SOURCE,
                "expr": query.expression,
                "legendFormat": query.legend or "__auto",
                "instant": one.is_instant,
                "range": not one.is_instant,
                "format": "heatmap" if one.kind == "heatmap" else "time_series",
            }
            for index, query in enumerate(one.queries)
        ],
    }


def _variables(has_endurance: bool) -> list[Json]:
    source = {
        **{"name": "datasource", "label": "Data source", "type": "datasource"},
        **{"query": "prometheus", "hide": 0, "multi": False, "includeAll": False},
    }
    known = '__name__=~"pipemax_job_attempts|pipemax_build_info"'
    variables = [
        source,
        _query_variable("namespace", "Namespace", f"{{{known}}}"),
        _query_variable("job", "Job", f'{{{known}, namespace=~"$namespace"}}'),
        _query_variable("node", "Node", f"pipemax_build_info{{{JOB}}}"),
    ]
    if has_endurance:
        variables.append(
            {
                **{"name": "endurance", "label": "NVMe endurance, TB written", "type": "textbox"},
                **{"query": "600", "current": {"text": "600", "value": "600"}, "hide": 0},
            }
        )
    return variables


def _query_variable(name: str, label: str, series: str) -> Json:
    query = f"label_values({series}, {name})"
    return {
        **{"name": name, "label": label, "type": "query", "datasource": DATA_SOURCE},
        **{"query": {"query": query, "refId": f"{name}-variable"}},
        **{"refresh": 2, "sort": 1, "multi": True, "includeAll": True, "allValue": ".*"},
        **{"current": {"text": "All", "value": "$__all"}, "hide": 0},
    }
