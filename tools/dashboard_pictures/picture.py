"""A whole dashboard as a PNG: its panels in their grid, under a line that says what this is."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from textwrap import shorten

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from dashboard_pictures.axes import FAINT, INK
from dashboard_pictures.panels import draw_panel
from dashboard_pictures.series import Json, Series, Span

COLUMN_INCHES, ROW_INCHES, GAP_INCHES, HEADER_INCHES = 0.58, 0.30, 0.09, 0.55
DOTS_PER_INCH = 100
NUM_COLOURS = 256
GROUND = "#f4f5f5"
DRAWN_BY = "drawn by tools/draw_dashboards.py from live data, not by Grafana"


def draw_dashboard(
    dashboard: Json, series_of: Callable[[Json, Json], Sequence[Series]], span: Span, path: Path
) -> list[str]:
    """Writes the picture to ``path``. Returns the titles of panels that have no data."""
    num_rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    width = 24 * COLUMN_INCHES + 2 * GAP_INCHES
    height = num_rows * ROW_INCHES + HEADER_INCHES + GAP_INCHES
    empty: list[str] = []
    with mpl.rc_context({"font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(width, height), facecolor=GROUND)
        _write_header(figure, dashboard, span)
        for panel in dashboard["panels"]:
            series = series_of(panel, dashboard)
            if not series:
                empty.append(panel["title"])
            _place_panel(figure, panel, series, span)
        _save(figure, path)
    return empty


def _write_header(figure: Figure, dashboard: Json, span: Span) -> None:
    width, height = figure.get_size_inches()
    left, top = 2 * GAP_INCHES / width, 1 - HEADER_INCHES / 2 / height
    figure.text(left, top, dashboard["title"], size=15, weight="bold", color=INK, va="center")
    begin, end = (datetime.fromtimestamp(time, UTC) for time in (span.begin, span.end))
    when = f"{begin:%Y-%m-%d %H:%M:%S} to {end:%H:%M:%S} UTC"
    text = f"{when}, {DRAWN_BY}"
    figure.text(1 - left, top, text, size=9, color=FAINT, va="center", ha="right")


def _place_panel(figure: Figure, panel: Json, series: Sequence[Series], span: Span) -> None:
    """A white card with the title on it, and what it shows below."""
    width, height = figure.get_size_inches()
    place = panel["gridPos"]
    card_width = place["w"] * COLUMN_INCHES - GAP_INCHES
    card_height = place["h"] * ROW_INCHES - GAP_INCHES
    x = GAP_INCHES * 1.5 + place["x"] * COLUMN_INCHES
    y = height - HEADER_INCHES - place["y"] * ROW_INCHES - card_height
    card = FancyBboxPatch(
        (x / width, y / height),
        card_width / width,
        card_height / height,
        boxstyle="square,pad=0",
        facecolor="white",
        edgecolor="#dcdee1",
        linewidth=0.8,
        transform=figure.transFigure,
        zorder=-1,
    )
    figure.add_artist(card)
    margin, title_height = 0.1, 0.28
    title_y = y + card_height - title_height / 2 - 0.04
    title = shorten(panel["title"], int(place["w"] * 7), placeholder="…")
    figure.text((x + margin) / width, title_y / height, title, size=9, color=INK, va="center")
    inside = (
        *((x + margin) / width, (y + margin / 2) / height),
        *((card_width - 2 * margin) / width, (card_height - title_height - margin) / height),
    )
    draw_panel(figure.add_axes(inside), panel, series, span)


def _save(figure: Figure, path: Path) -> None:
    """In few colours: a third of the bytes."""
    page = io.BytesIO()
    figure.savefig(page, format="png", dpi=DOTS_PER_INCH, facecolor=figure.get_facecolor())
    page.seek(0)
    with Image.open(page) as image:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.convert("RGB").quantize(NUM_COLOURS).save(path, optimize=True)
