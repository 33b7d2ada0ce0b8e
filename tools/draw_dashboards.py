"""Draw the dashboards from live data, without Grafana: a picture of each for the documentation.

python tools/draw_dashboards.py                                   of a small cluster, run for it
python tools/draw_dashboards.py --prometheus URL --minutes 180    of your own

Every panel's own query is asked of a real Prometheus and drawn by matplotlib in the dashboard's
grid. Without --prometheus it starts a control plane, the operator, three jobs (two of them real
runs of the example model) and Prometheus, and ends them all. Needs `make control-plane` once.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("tools", "tests", "operator", "worker")]

from dashboard_pictures.picture import draw_dashboard  # noqa: E402
from dashboard_pictures.scene import running_scene  # noqa: E402
from dashboard_pictures.series import RangeQueries, Span  # noqa: E402

DASHBOARDS = ROOT / "charts" / "pipemax" / "dashboards"
SCRAPE_INTERVAL_SECONDS = 15
SCENE_RATE_INTERVAL_SECONDS = 20
"""The scene is scraped every second."""


def draw_all(address: str, span: Span, folder: Path) -> None:
    """A picture of each dashboard, from the Prometheus at ``address``."""
    queries = RangeQueries(address, span)
    for path in sorted(DASHBOARDS.glob("*.json")):
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        picture = folder / f"{dashboard['uid']}.png"
        empty = draw_dashboard(dashboard, queries.series_of, span, picture)
        told = f"; no data: {', '.join(empty)}" if empty else ""
        print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB{told}")


def draw_scene(seconds: float, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as text:
        began = time.time()
        with running_scene(Path(text), seconds) as prometheus:
            end = time.time()
            begin = max(began, end - seconds - 5)
            draw_all(prometheus.address, Span(begin, end, SCENE_RATE_INTERVAL_SECONDS), folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prometheus", help="address of one that is there, as http://HOST:PORT")
    parser.add_argument("--minutes", type=float, default=60, help="until now, with --prometheus")
    parser.add_argument("--seconds", type=float, default=170, help="how long the own cluster runs")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    options = parser.parse_args()
    if options.prometheus is None:
        draw_scene(options.seconds, options.out)
    else:
        now = time.time()
        span = Span(now - 60 * options.minutes, now, 4 * SCRAPE_INTERVAL_SECONDS)
        draw_all(options.prometheus.rstrip("/"), span, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
