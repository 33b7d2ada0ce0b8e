"""Every alert fires where it is provoked, is silent close to it, and has its entry in the runbook.

By promtool, on the rules as the chart ships them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit.alert_scenes import NAMESPACE, SCENES, Series
from kit.prometheus import run_promtool
from kit.tools import ROOT, load_tool

GENERATOR = load_tool("generate_monitoring")
RUNBOOK = ROOT / "docs" / "operations.md"
GROUPS: list[dict[str, Any]] = GENERATOR.read_rule_groups()
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}


def read_runbook() -> dict[str, str]:
    """The text of each entry by its heading."""
    parts = re.split(r"^### (\w+)$", RUNBOOK.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_plain_file_is_what_the_chart_has() -> None:
    text = GENERATOR.RULES_FILE.read_text(encoding="utf-8")
    assert text == GENERATOR.render_rules(), "run tools/generate_monitoring.py"
    assert yaml.safe_load(text) == {"groups": GROUPS}


def test_promtool_takes_the_plain_file() -> None:
    said = run_promtool("check", "rules", str(GENERATOR.RULES_FILE))
    assert f"SUCCESS: {len(RULES)} rules found" in said


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_severity_runbook_and_words(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    assert rule["annotations"]["runbook"] == f"docs/operations.md#{alert.lower()}"
    assert {"summary", "description"} <= set(rule["annotations"])
    entry = read_runbook()[alert]
    for word in ("**Means.**", "**Look at.**", "**Do.**"):
        assert word in entry


def test_every_entry_has_an_alert_and_every_alert_a_scene() -> None:
    assert set(read_runbook()) == set(ALERTS)
    assert set(SCENES) == set(ALERTS)


def test_each_alert_fires_where_it_is_provoked(tmp_path: Path) -> None:
    world = play({alert: scene.fires for alert, scene in SCENES.items()})
    for alert, scene in SCENES.items():
        firing = f'ALERTS{{alertname="{alert}", namespace="{alert.lower()}", alertstate="firing"}}'
        labels = f'{{alertname="{alert}"}}'
        expect(world, f"count by (alertname) ({firing})", scene.minute, {labels: 1})
    run_scenes(world, tmp_path)


def test_no_alert_at_all_fires_where_each_is_nearly_provoked(tmp_path: Path) -> None:
    world = play({alert: scene.silent for alert, scene in SCENES.items()})
    for minute in range(5, 1 + max(scene.minute for scene in SCENES.values()), 5):
        # Scenes end at their own minute; what comes after it is nobody's business.
        ended = [alert.lower() for alert, scene in SCENES.items() if scene.minute < minute]
        others = f'namespace!~"{"|".join(ended)}"'
        expect(world, f'ALERTS{{alertstate="firing", {others}}}', minute, {})
    run_scenes(world, tmp_path)


def test_a_scene_that_does_not_provoke_is_told(tmp_path: Path) -> None:
    """So that the tests above can fail."""
    alert = "PipeMaxNvmeErrors"
    world = play({alert: SCENES[alert].silent})
    firing = f'count by (alertname) (ALERTS{{alertname="{alert}"}})'
    expect(world, firing, SCENES[alert].minute, {f'{{alertname="{alert}"}}': 1})
    with pytest.raises(AssertionError, match="FAILED"):
        run_scenes(world, tmp_path)


def play(scenes: dict[str, Series]) -> dict[str, Any]:
    """One test of promtool with all series, each scene's in a namespace of its own."""
    return {
        "interval": "1m",
        "input_series": [
            {"series": name.replace(NAMESPACE, alert.lower()), "values": values}
            for alert, series in scenes.items()
            for name, values in series.items()
        ],
        "promql_expr_test": [],
    }


def expect(world: dict[str, Any], query: str, minute: int, samples: dict[str, float]) -> None:
    """``samples``, and no others, are what ``query`` gives at ``minute``."""
    found = [{"labels": labels, "value": value} for labels, value in samples.items()]
    world["promql_expr_test"].append(
        {"expr": query, "eval_time": f"{minute}m", "exp_samples": found}
    )


def run_scenes(world: dict[str, Any], folder: Path) -> None:
    """Raises AssertionError with what promtool said."""
    document = {"rule_files": [str(GENERATOR.RULES_FILE)], "tests": [world]}
    (folder / "scenes.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    assert "SUCCESS" in run_promtool("test", "rules", str(folder / "scenes.yaml"))
