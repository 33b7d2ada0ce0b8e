"""What goes on over time: lines, stacks of them, and heat maps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from numpy.typing import NDArray

from dashboard_pictures.axes import colour_of, plot_above_legend, scale_values, write_legend
from dashboard_pictures.series import Json, Series, Span
from dashboard_pictures.units import write_value

_LEAST_GAP_STEPS = 5.0
"""Longer without a value, and a line has a gap."""


def draw_lines(axes: Axes, panel: Json, series: Sequence[Series], span: Span) -> None:
    """A panel of the type `timeseries`."""
    plot = plot_above_legend(axes, panel, span, series)
    defaults = panel["fieldConfig"]["defaults"]
    if defaults["custom"]["stacking"]["mode"] == "normal":
        _stack(plot, series, defaults["custom"]["fillOpacity"] / 100)
    else:
        for number, one in enumerate(series):
            times, values = with_gaps(one, span)
            plot.plot(times, values, color=colour_of(number), linewidth=1.2, label=one.name)
    scale_values(plot, defaults["unit"])
    write_legend(plot, panel)


def with_gaps(one: Series, span: Span) -> tuple[list[float], list[float]]:
    """Its points, and no number where it was away."""
    times, values = [one.times[0]], [one.values[0]]
    for time, value in zip(one.times[1:], one.values[1:], strict=True):
        if time - times[-1] > _LEAST_GAP_STEPS * span.step_seconds:
            times.append((time + times[-1]) / 2)
            values.append(math.nan)
        times.append(time)
        values.append(value)
    return times, values


def _stack(plot: Axes, series: Sequence[Series], opacity: float) -> None:
    """One on the other; a series counts as nothing where it has no value."""
    times, rows = _as_table(series)
    base = np.zeros(len(times))
    for number, (one, row) in enumerate(zip(series, rows, strict=True)):
        top = base + row
        colour = colour_of(number)
        plot.fill_between(times, base, top, color=colour, alpha=opacity, linewidth=0)
        plot.plot(times, top, color=colour, linewidth=1.2, label=one.name)
        base = top


def draw_heatmap(axes: Axes, panel: Json, series: Sequence[Series], span: Span) -> None:
    """A panel of the type `heatmap`, of a histogram's buckets: one row for each that is used."""
    plot = plot_above_legend(axes, panel, span, ())
    ordered = sorted(series, key=_bound)
    times, rows = _as_table(ordered)
    counts = between_bounds(rows)
    used = np.flatnonzero(counts.sum(axis=1) > 0)
    first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, len(ordered))
    cells = np.ma.masked_less_equal(counts[first:last], 0.0)
    edges = np.append(times, times[-1] + span.step_seconds)
    plot.pcolormesh(edges, np.arange(last - first + 1), cells, cmap="Oranges", norm=PowerNorm(0.5))
    unit = panel["options"]["yAxis"]["unit"]
    names = [_name_bound(_bound(one), unit) for one in ordered[first:last]]
    plot.set_yticks(np.arange(last - first) + 1, names)


def between_bounds(cumulative: NDArray[np.float64]) -> NDArray[np.float64]:
    """What lies between one bound and the next, of counts up to each.  # [bounds, times]"""
    return np.maximum(np.diff(cumulative, axis=0, prepend=0.0), 0.0)


def _as_table(series: Sequence[Series]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All times, and a row of values for each series: nought where it has none."""
    times = sorted({time for one in series for time in one.times})
    known = [dict(zip(one.times, one.values, strict=True)) for one in series]
    rows = [[row.get(time, 0.0) for time in times] for row in known]
    return np.array(times), np.array(rows)


def _bound(one: Series) -> float:
    return float(one.labels["le"])


def _name_bound(bound: float, unit: str) -> str:
    return "more" if math.isinf(bound) else f"≤ {write_value(bound, unit)}"
