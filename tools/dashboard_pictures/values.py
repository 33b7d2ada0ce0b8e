"""What is now: numbers, and dials."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Wedge

from dashboard_pictures.axes import GRID, INK
from dashboard_pictures.series import Json, Series, Span
from dashboard_pictures.units import write_value

NAMED_COLOURS = {"green": "#3b8f4a", "red": "#d0312d", "orange": "#e07b16", "blue": "#2f6fb5"}


def draw_stats(axes: Axes, panel: Json, series: Sequence[Series], span: Span) -> None:
    """A panel of the type `stat`: values side by side, with the course behind if it has one."""
    for number, one in enumerate(series):
        left, width = number / len(series), 1 / len(series)
        colour = threshold_colour(panel, one.last)
        has_course = panel["options"]["graphMode"] == "area"
        if has_course:
            _draw_course(axes.inset_axes((left, 0.0, 0.98 * width, 0.3)), one, span, colour)
        text = _value_text(panel, one)
        size = min(22.0, 100 * _inches(axes) * width / max(len(text), 3))
        middle = (left + width / 2, 0.58 if has_course else 0.42)
        axes.text(*middle, text, ha="center", va="center", color=colour, size=size)
        _write_name(axes, panel, one, left, width)


def draw_gauges(axes: Axes, panel: Json, series: Sequence[Series], span: Span) -> None:
    """A panel of the type `gauge`: arcs from the least to the most that the panel allows."""
    defaults = panel["fieldConfig"]["defaults"]
    for number, one in enumerate(series):
        left, width = number / len(series), 1 / len(series)
        dial = axes.inset_axes((left, 0.0, width, 0.88))
        dial.set_axis_off()
        dial.set_aspect("equal")
        dial.set_xlim(-1.1, 1.1)
        dial.set_ylim(-0.25, 1.1)
        share = (one.last - defaults["min"]) / (defaults["max"] - defaults["min"])
        angle = 180 - 180 * min(max(share, 0.0), 1.0)
        colour = threshold_colour(panel, one.last)
        dial.add_patch(Wedge((0, 0), 1, 0, 180, width=0.28, color=GRID, linewidth=0))
        dial.add_patch(Wedge((0, 0), 1, angle, 180, width=0.28, color=colour, linewidth=0))
        text = _value_text(panel, one)
        dial.text(0, 0.05, text, ha="center", va="center", color=colour, size=11)
        _write_name(axes, panel, one, left, width)


def threshold_colour(panel: Json, value: float) -> str:
    """Of the last step that ``value`` reaches."""
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    reached = [step for step in steps if step["value"] is None or value >= step["value"]]
    return NAMED_COLOURS[reached[-1]["color"]]


def _draw_course(course: Axes, one: Series, span: Span, colour: str) -> None:
    course.set_axis_off()
    course.fill_between(one.times, one.values, color=colour, alpha=0.18, linewidth=0)
    course.plot(one.times, one.values, color=colour, linewidth=1)
    course.set_xlim(span.begin, span.end)
    course.set_ylim(min(0.0, *one.values), max(*one.values, 1e-9) * 1.05)


def _value_text(panel: Json, one: Series) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    return write_value(one.last, defaults["unit"], defaults.get("decimals"))


def _write_name(axes: Axes, panel: Json, one: Series, left: float, width: float) -> None:
    """Above the value, as much of it as fits; a number alone has no name, as in Grafana."""
    if panel["targets"][0]["legendFormat"] == "__auto":
        return
    room = max(6, int(_inches(axes) * width * 15))
    name = one.name if len(one.name) <= room else f"{one.name[: room - 1]}…"
    axes.text(left + width / 2, 0.9, name, ha="center", color=INK, size=7.5)


def _inches(axes: Axes) -> float:
    figure = axes.get_figure()
    assert figure is not None
    return float(axes.get_window_extent().width / figure.dpi)
