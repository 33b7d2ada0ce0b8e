"""Write what monitoring needs: the dashboards of the chart, and its alerts as a plain file.

python tools/generate_monitoring.py            write all
python tools/generate_monitoring.py --check    exit 1 if a file is not what would be written
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tools")]

from dashboards import DASHBOARDS  # noqa: E402
from dashboards.panels import build_dashboard  # noqa: E402

CHART = ROOT / "charts" / "pipemax"
ALERTS = CHART / "alerts"
DASHBOARD_FOLDER = CHART / "dashboards"
RULES_FILE = ROOT / "manifests" / "monitoring" / "prometheus-rules.yaml"

RULES_HEADER = """\
# Alerts and recording rules for a Prometheus without the operator of that name: add this file to
# its `rule_files`. Made of charts/pipemax/alerts by tools/generate_monitoring.py; do not edit.
"""


def read_rule_groups() -> list[dict[str, Any]]:
    """All groups of the chart, in the order in which it ships them."""
    files = sorted(ALERTS.glob("*.yaml"))
    return [group for path in files for group in yaml.safe_load(path.read_text(encoding="utf-8"))]


def render_rules() -> str:
    """The plain file: the chart's own text, one level deeper."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(ALERTS.glob("*.yaml"))]
    lines = [f"  {line}" if line else "" for text in texts for line in text.splitlines()]
    return "\n".join((f"{RULES_HEADER}groups:", *lines)) + "\n"


def rendered() -> dict[Path, str]:
    """Every file with its text."""
    texts = {
        DASHBOARD_FOLDER / f"{one.name}.json": json.dumps(build_dashboard(one), indent=1) + "\n"
        for one in DASHBOARDS
    }
    return {RULES_FILE: render_rules(), **texts}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    check = parser.parse_args().check
    stale = [
        path
        for path, text in rendered().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        if check:
            print(f"{path.relative_to(ROOT)} is stale; run tools/generate_monitoring.py")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(rendered()[path], encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
