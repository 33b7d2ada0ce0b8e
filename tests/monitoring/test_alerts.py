"""Every alert fires where it is provoked, is silent close to it, and has its entry in the runbook.

By promtool, on the rules as the chart ships them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit.alert_scenes import SCENES
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


def test_each_alert_fires_where_it_is_provoked_and_is_silent_close_to_it(tmp_path: Path) -> None:
    scenes = [
        scene_test(alert, series, SCENES[alert].minute, expected)
        for alert in SCENES
        for series, expected in ((SCENES[alert].fires, 1), (SCENES[alert].silent, 0))
    ]
    tests = tmp_path / "scenes.yaml"
    document = {"rule_files": [str(GENERATOR.RULES_FILE)], "tests": scenes}
    tests.write_text(yaml.safe_dump(document), encoding="utf-8")
    assert "SUCCESS" in run_promtool("test", "rules", str(tests))


def test_a_scene_that_does_not_provoke_is_told(tmp_path: Path) -> None:
    """So that the test above can fail."""
    alert = "PipeMaxNvmeErrors"
    wrong = scene_test(alert, SCENES[alert].silent, SCENES[alert].minute, expected=1)
    tests = tmp_path / "wrong.yaml"
    document = {"rule_files": [str(GENERATOR.RULES_FILE)], "tests": [wrong]}
    tests.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(AssertionError, match="FAILED"):
        run_promtool("test", "rules", str(tests))


def scene_test(alert: str, series: dict[str, str], minute: int, expected: int) -> dict[str, Any]:
    """One test of promtool: how many of ``alert`` fire at ``minute``; nothing else may."""
    firing_alerts = f'ALERTS{{alertname="{alert}", alertstate="firing"}}'
    firing = {"labels": f'{{alertname="{alert}"}}', "value": expected}
    return {
        "name": f"{alert} {'fires' if expected else 'is silent'}",
        "interval": "1m",
        "input_series": [{"series": name, "values": value} for name, value in series.items()],
        "promql_expr_test": [
            {
                "expr": f"count by (alertname) ({firing_alerts})",
                "eval_time": f"{minute}m",
                "exp_samples": [firing] if expected else [],
            }
        ],
    }
