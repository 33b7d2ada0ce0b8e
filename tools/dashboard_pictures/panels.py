"""One panel on its piece of the picture, by its type."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from dashboard_pictures.axes import FAINT
from dashboard_pictures.courses import draw_heatmap, draw_lines
from dashboard_pictures.series import Json, Series, Span
from dashboard_pictures.values import draw_gauges, draw_stats

_BY_TYPE = {
    "timeseries": draw_lines,
    "heatmap": draw_heatmap,
    "stat": draw_stats,
    "gauge": draw_gauges,
}


def draw_panel(axes: Axes, panel: Json, series: Sequence[Series], span: Span) -> None:
    """``axes``: the whole inside of the panel; what it shows is laid out in it."""
    axes.set_axis_off()
    if series:
        _BY_TYPE[panel["type"]](axes, panel, series, span)
    else:
        axes.text(0.5, 0.5, "No data", ha="center", va="center", color=FAINT, fontsize=10)
