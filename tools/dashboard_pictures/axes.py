"""Axes of time with room for a legend below, and what is common to all that is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, MaxNLocator, MultipleLocator

from dashboard_pictures.series import Json, Series, Span
from dashboard_pictures.units import write_value

INK, FAINT, GRID = "#24292e", "#7a8089", "#e6e8eb"
# Grafana's classic palette, in its order.
PALETTE = (
    *("#7EB26D", "#EAB839", "#6ED0E0", "#EF843C", "#E24D42", "#1F78C1", "#BA43A9", "#705DA0"),
    *("#508642", "#CCA300", "#447EBC", "#C15C17", "#890F02", "#0A437C", "#6D1F62", "#584477"),
)
MAX_LEGENDS = 12
_TIME_STEPS = (5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400, 604800, 2419200)
_NUM_VALUE_STEPS = 5


def colour_of(number: int) -> str:
    return PALETTE[number % len(PALETTE)]


def plot_above_legend(axes: Axes, panel: Json, span: Span, series: Sequence[Series]) -> Axes:
    """Axes of time in the panel's inside, above as many rows as the names of ``series`` take."""
    width = panel["gridPos"]["w"]
    left, bottom = 0.9 / width, 0.12 + 0.085 * _num_legend_rows(series, panel)
    right = 1 - 0.45 / width
    plot: Axes = axes.inset_axes((left, bottom, right - left, 0.97 - bottom))
    plot.set_xlim(span.begin, span.end)
    plot.tick_params(colors=FAINT, labelsize=7, length=0)
    plot.grid(color=GRID, linewidth=0.6)
    plot.set_axisbelow(True)
    for spine in plot.spines.values():
        spine.set_visible(False)
    plot.xaxis.set_major_locator(_time_ticks(span, max_number=max(3, width // 2)))
    plot.xaxis.set_major_formatter(FuncFormatter(_write_time))
    return plot


def scale_values(plot: Axes, unit: str) -> None:
    """From nought to a little above the highest."""
    highest = plot.dataLim.y1
    top = highest * 1.08 if math.isfinite(highest) and highest > 0 else 1.0
    plot.set_ylim(0, top)
    plot.yaxis.set_major_locator(_value_ticks(unit, top))
    plot.yaxis.set_major_formatter(FuncFormatter(lambda value, _: write_value(value, unit)))


def write_legend(plot: Axes, panel: Json) -> None:
    """Below the axis of time."""
    handles, names = plot.get_legend_handles_labels()
    handles, names = handles[:MAX_LEGENDS], names[:MAX_LEGENDS]
    legend = plot.legend(
        handles,
        names,
        loc="upper left",
        bbox_to_anchor=(-0.06, -0.1),
        ncol=_num_columns(names, panel),
        frameon=False,
        fontsize=7.5,
        labelcolor=INK,
        handlelength=1.2,
        columnspacing=1.2,
        borderpad=0,
        labelspacing=0.35,
    )
    for line in legend.get_lines():
        line.set_linewidth(3)


def _time_ticks(span: Span, max_number: int) -> Locator:
    """At whole seconds, minutes or hours."""
    lasts = span.end - span.begin
    fitting = (step for step in _TIME_STEPS if lasts / step <= max_number)
    return MultipleLocator(next(fitting, _TIME_STEPS[-1]))


def _value_ticks(unit: str, top: float) -> Locator:
    """At powers of two for bytes, at whole minutes or hours for long times."""
    step = 0.0
    if unit == "bytes":
        step = 2.0 ** math.ceil(math.log2(top / _NUM_VALUE_STEPS))
    if unit == "s" and top >= 60:
        fitting = (step for step in _TIME_STEPS if top / step <= _NUM_VALUE_STEPS)
        step = float(next(fitting, _TIME_STEPS[-1]))
    if step:
        return FixedLocator(np.arange(0.0, top, step).tolist())
    return MaxNLocator(_NUM_VALUE_STEPS, steps=[1, 2, 5, 10])


def _write_time(value: float, _: Any) -> str:
    return datetime.fromtimestamp(value, UTC).strftime("%H:%M:%S")


def _num_columns(names: Sequence[str], panel: Json) -> int:
    """As many as fit side by side in the panel's width."""
    longest = max(len(name) for name in names)
    return max(1, min(len(names), int(panel["gridPos"]["w"] * 9.5 / (longest + 6))))


def _num_legend_rows(series: Sequence[Series], panel: Json) -> int:
    names = [one.name for one in series][:MAX_LEGENDS]
    return -(-len(names) // _num_columns(names, panel)) if names else 0
