"""One panel: what it shows, and Grafana's words for how.

All that Grafana's types require is said, also where it is the default: Grafana writes it so itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Query:
    """``legend``: as Grafana writes it, such as ``{{stage}}``."""

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """kind    Grafana's name of the panel type: timeseries, stat, gauge or heatmap.
    unit       Grafana's name of it: short, s, percentunit, bytes, Bps.
    width      of 24 columns.
    thresholds from which value on a stat or gauge has which colour, beside its first one.
    has_course whether a stat shows the course behind its value: then the last one that there was
               stays, so its query must always have one. Without, it tells of now alone.
    decimals   of the number; None: Grafana's choice.
    """

    title: str
    description: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 12
    stacked: bool = False
    colour: str = "green"
    thresholds: tuple[tuple[float, str], ...] = ()
    has_course: bool = False
    decimals: int | None = None

    @property
    def is_instant(self) -> bool:
        return self.kind in ("stat", "gauge") and not self.has_course

    @property
    def height(self) -> int:
        return 4 if self.kind in ("stat", "gauge") else 8


def field_defaults(one: Panel) -> Json:
    """How values are written and coloured."""
    steps: list[Json] = [{"value": None, "color": one.colour}]
    steps += [{"value": value, "color": colour} for value, colour in one.thresholds]
    defaults: Json = {"unit": one.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    if one.decimals is not None:
        defaults["decimals"] = one.decimals
    if one.kind == "gauge":
        defaults |= {"min": 0, "max": 1}
    if one.kind in ("stat", "gauge"):
        defaults["color"] = {"mode": "thresholds"}
    if one.kind == "timeseries":
        stacking = "normal" if one.stacked else "none"
        defaults["color"] = {"mode": "palette-classic"}
        defaults["custom"] = {
            "fillOpacity": 30 if one.stacked else 5,
            "showPoints": "never",
            "stacking": {"mode": stacking, "group": "A"},
        }
        defaults["min"] = 0
    return defaults


def options_of(one: Panel) -> Json:
    """Of the panel type."""
    return {
        "timeseries": _time_series_options,
        "stat": _stat_options,
        "gauge": _gauge_options,
        "heatmap": _heatmap_options,
    }[one.kind](one)


def _time_series_options(one: Panel) -> Json:
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


_LAST_VALUE = {"calcs": ["lastNotNull"], "fields": "", "values": False}


def _stat_options(one: Panel) -> Json:
    return {
        "orientation": "auto",
        "reduceOptions": _LAST_VALUE,
        "colorMode": "value",
        "graphMode": "area" if one.has_course else "none",
        "justifyMode": "auto",
        "textMode": "auto",
        "wideLayout": True,
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
    }


def _gauge_options(one: Panel) -> Json:
    """An arc with its colours in both generations of the panel: until Grafana 12, and since."""
    return {
        "orientation": "auto",
        "reduceOptions": _LAST_VALUE,
        "showThresholdLabels": False,
        "showThresholdMarkers": bool(one.thresholds),
        "sizing": "auto",
        "minVizWidth": 75,
        "minVizHeight": 75,
        "shape": "gauge",
        "barShape": "flat",
        "barWidthFactor": 0.5,
        "segmentCount": 1,
        "segmentSpacing": 0.3,
        "effects": {},
    }


def _heatmap_options(one: Panel) -> Json:
    return {
        "calculate": False,
        "cellGap": 1,
        "color": {
            **{"mode": "scheme", "scheme": "Oranges", "steps": 64, "reverse": False},
            **{"scale": "exponential", "exponent": 0.5, "fill": "dark-orange"},
        },
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
        "yAxis": {"unit": one.unit, "axisPlacement": "left"},
    }
