"""The pictures of the dashboards: what is asked, how numbers are written, what is drawn."""

from __future__ import annotations

import http.server
import json
import math
import sys
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit.dashboards import DASHBOARDS
from kit.tools import ROOT
from PIL import Image

sys.path[:0] = [str(ROOT / "tools")]

from dashboard_pictures.courses import between_bounds, with_gaps  # noqa: E402
from dashboard_pictures.picture import draw_dashboard  # noqa: E402
from dashboard_pictures.series import (  # noqa: E402
    RangeQueries,
    Series,
    Span,
    fill_in,
    legend_of,
)
from dashboard_pictures.units import write_value  # noqa: E402
from dashboard_pictures.values import threshold_colour  # noqa: E402

SPAN = Span(1_795_350_000.0, 1_795_350_180.0, 20)
TIMES = tuple(np.linspace(SPAN.begin, SPAN.end, 30).tolist())
MAX_BYTES = 200_000


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "short", "0"),
        (1234, "short", "1.23 K"),
        (99.96, "short", "100"),
        (0.25, "short", "0.25"),
        (2.5e6, "short", "2.5 Mil"),
        (0.327, "percentunit", "32.7%"),
        (0, "s", "0 s"),
        (0.0042, "s", "4.2 ms"),
        (60, "s", "1 min"),
        (1908, "s", "31.8 mins"),
        (-7200, "s", "-2 hours"),
        (6 * 2**20, "bytes", "6 MiB"),
        (512, "bytes", "512 B"),
        (3.2e9, "Bps", "3.2 GB/s"),
        (350, "watt", "350 W"),
        (1.5, "kwatth", "1.5 kWh"),
        (12, "h", "12 hours"),
        (1_795_350_000_000, "dateTimeAsIso", "2026-11-22 12:20:00"),
        (3, "parsecs", "3 parsecs"),
    ],
)
def test_numbers_are_written_as_grafana_writes_them(value: float, unit: str, text: str) -> None:
    assert write_value(value, unit) == text


def test_shares_have_the_decimals_that_the_panel_asks_for() -> None:
    assert write_value(1.8e-8, "percentunit", decimals=2) == "0.00%"


def test_legends() -> None:
    labels = {"__name__": "x", "tier": "nvme", "state": "used"}
    assert legend_of("{{tier}} {{ state }}, {{node}}", labels) == "nvme used, "
    assert legend_of("__auto", labels) == "state=used, tier=nvme"


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda one: str(one["uid"]))
def test_no_variable_is_left_in_a_query(dashboard: dict[str, Any]) -> None:
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            assert "$" not in fill_in(target["expr"], dashboard, 20)


class FakePrometheus(http.server.BaseHTTPRequestHandler):
    """One series, and one of no number; it remembers what it was asked."""

    asked: Sequence[tuple[str, dict[str, str]]] = []

    def do_GET(self) -> None:
        page = urllib.parse.urlsplit(self.path)
        parameters = dict(urllib.parse.parse_qsl(page.query))
        type(self).asked = [*self.asked, (page.path, parameters)]
        metric = {"tier": "host"}
        found: list[dict[str, Any]] = [{"metric": metric, "value": [7, "0.5"]}]
        if page.path.endswith("query_range"):
            points = [[1, "NaN"], [2, "3"], [3, "+Inf"], [4, "5"]]
            found = [{"metric": metric, "values": points}, {"metric": {}, "values": [[1, "NaN"]]}]
        body = json.dumps({"data": {"result": found}}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def prometheus(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(FakePrometheus, "asked", [])
    with http.server.HTTPServer(("127.0.0.1", 0), FakePrometheus) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def panel_of(kind: str, uid: str = "pipemax-kv-tiers") -> tuple[dict[str, Any], dict[str, Any]]:
    dashboard = next(one for one in DASHBOARDS if one["uid"] == uid)
    return next(one for one in dashboard["panels"] if one["type"] == kind), dashboard


def test_a_course_is_asked_over_the_whole_span(prometheus: str) -> None:
    panel, dashboard = panel_of("timeseries")
    (one,) = RangeQueries(prometheus, SPAN).series_of(panel, dashboard)
    assert (one.times, one.values, one.last) == ((2.0, 4.0), (3.0, 5.0), 5.0)
    ((path, parameters),) = FakePrometheus.asked
    assert path == "/api/v1/query_range"
    assert [float(parameters[key]) for key in ("start", "end", "step")] == [
        *(SPAN.begin, SPAN.end, 1.0)
    ]


def test_a_number_is_asked_for_at_the_end(prometheus: str) -> None:
    panel, dashboard = panel_of("gauge")
    (one,) = RangeQueries(prometheus, SPAN).series_of(panel, dashboard)
    assert (one.name, one.values) == ("host", (0.5,))
    ((path, parameters),) = FakePrometheus.asked
    assert (path, float(parameters["time"])) == ("/api/v1/query", SPAN.end)


def test_a_line_has_a_gap_where_its_series_was_away() -> None:
    one = Series("a", {}, (1.0, 2.0, 30.0), (5.0, 6.0, 7.0))
    times, values = with_gaps(one, SPAN)
    assert times == [1.0, 2.0, 16.0, 30.0]
    assert math.isnan(values[2])


def test_a_heat_map_shows_what_lies_between_two_bounds() -> None:
    cumulative = np.array([[1.0, 0.0], [4.0, 2.0], [4.0, 1.0]])
    assert between_bounds(cumulative).tolist() == [[1.0, 0.0], [3.0, 2.0], [0.0, 0.0]]


def test_a_number_has_the_colour_of_the_last_bound_that_it_reaches() -> None:
    steps = [{"value": None, "color": "green"}, {"value": 1, "color": "red"}]
    panel = {"fieldConfig": {"defaults": {"thresholds": {"steps": steps}}}}
    assert threshold_colour(panel, 0.9) != threshold_colour(panel, 1.0)
    assert threshold_colour(panel, 1.0) == threshold_colour(panel, 7.0)


@pytest.mark.parametrize("uid", ["pipemax-engine", "pipemax-job"])
def test_a_dashboard_is_drawn_panel_by_panel(uid: str, tmp_path: Path) -> None:
    """Every type of panel; series that end, stand still, or are not there at all."""
    _, dashboard = panel_of("timeseries", uid)

    def series_of(panel: dict[str, Any], _: Any) -> list[Series]:
        if panel["title"] == "Requests in the engine":
            return []
        if panel["type"] == "heatmap":
            return [bucket("0.1", 3.0), bucket("+Inf", 9.0), bucket("0.01", 1.0)]
        if panel["targets"][0]["instant"]:
            return [Series(f"batch/job-{n}", {}, (SPAN.end,), (0.3 * n,)) for n in range(3)]
        waves = tuple(100 + 50 * math.sin(time) for time in TIMES)
        return [Series("a", {}, TIMES, waves), Series("b", {}, TIMES[:7], (0.0,) * 7)]

    path = tmp_path / "images" / "one.png"
    empty = draw_dashboard(dashboard, series_of, SPAN, path)
    assert empty == (["Requests in the engine"] if uid == "pipemax-engine" else [])
    assert path.stat().st_size < MAX_BYTES
    with Image.open(path) as image:
        assert image.width == 1410
        assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 20


def bucket(bound: str, count: float) -> Series:
    return Series(bound, {"le": bound}, TIMES, (count,) * len(TIMES))


@pytest.mark.parametrize("uid", [one["uid"] for one in DASHBOARDS])
def test_the_documentation_has_a_picture_of_each(uid: str) -> None:
    path = ROOT / "docs" / "images" / f"{uid}.png"
    assert path.stat().st_size < MAX_BYTES
    assert f"images/{uid}.png" in (ROOT / "docs" / "dashboards.md").read_text("utf-8")
