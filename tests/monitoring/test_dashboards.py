"""The dashboards: current, well laid out, and asking only for what is exported.

Whether a query finds data is for the live proof; that Prometheus can read it, and that each name in
it is one of the reference, is told here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit.dashboards import DASHBOARDS, Panel, fill_in, panels_of
from kit.prometheus import run_promtool
from kit.tools import load_tool

MONITORING = load_tool("generate_monitoring")
REFERENCE = load_tool("generate_metrics")
OTHERS = {"ALERTS"}
PANELS = [one for dashboard in DASHBOARDS for one in panels_of(dashboard)]


def test_the_files_are_those_of_the_code() -> None:
    folder = MONITORING.DASHBOARD_FOLDER
    texts = {path: path.read_text(encoding="utf-8") for path in folder.glob("*.json")}
    wanted = {path: t for path, t in MONITORING.rendered().items() if path.parent == folder}
    assert texts == wanted, "run tools/generate_monitoring.py"
    assert {path.stem for path in texts} == {"fleet", "job", "engine", "kv-tiers"}


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda one: str(one["uid"]))
def test_a_dashboard_has_its_variables_and_its_place_in_the_set(dashboard: dict[str, Any]) -> None:
    names = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert names[:4] == ["datasource", "namespace", "job", "node"]
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"])))
    assert used <= {*names, "__rate_interval"}
    assert dashboard["links"][0]["tags"] == dashboard["tags"]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda one: str(one["uid"]))
def test_panels_do_not_overlap_and_leave_no_hole_in_a_row(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + column, place["y"] + row)
            for column in range(place["w"])
            for row in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len(taken) == 24 * (1 + max(y for _, y in taken))
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


@pytest.mark.parametrize("panel", PANELS, ids=lambda one: f"{one.dashboard}-{one.title}")
def test_a_panel_asks_for_nothing_that_nobody_exports(panel: Panel) -> None:
    assert panel.queries
    assert panel.description.endswith(".")
    for query in panel.queries:
        names = set(re.findall(r"\b(?:pipemax_\w+|[A-Z]+_[A-Z_]+|ALERTS)\b", query))
        assert names
        assert names <= REFERENCE.series_names() | OTHERS


def test_rules_ask_for_nothing_that_nobody_exports() -> None:
    groups = MONITORING.read_rule_groups()
    rules = [rule for group in groups for rule in group["rules"]]
    recorded = {rule["record"] for rule in rules if "record" in rule}
    for rule in rules:
        names = set(re.findall(r"(?<!:)\bpipemax_\w+\b(?!:)", rule["expr"]))
        assert names <= REFERENCE.series_names()
        assert set(re.findall(r"\w+(?::\w+)+", rule["expr"])) <= recorded


def test_prometheus_reads_every_query(tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{number}", "expr": fill_in(query)}
        for number, query in enumerate(query for panel in PANELS for query in panel.queries)
    ]
    said = check(rules, tmp_path)
    assert f"SUCCESS: {len(rules)} rules found" in said
    with pytest.raises(AssertionError, match="parse error"):
        check([{"record": "query:wrong", "expr": "sum by pod (x)"}], tmp_path)


def check(rules: list[dict[str, str]], folder: Path) -> str:
    path = folder / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}), "utf-8")
    return run_promtool("check", "rules", "--lint=none", str(path))


def test_panels_that_need_a_gpu_are_few_and_named() -> None:
    found = {
        (panel.dashboard.removeprefix("pipemax-"), panel.title)
        for panel in PANELS
        if panel.needs_gpu
    }
    assert found == {
        ("fleet", "Generated tokens per joule"),
        ("fleet", "Power by node"),
        ("fleet", "GPU-hours by job"),
        ("job", "Energy"),
        ("job", "GPU-hours"),
        ("job", "Generated tokens per joule"),
        ("engine", "Power by GPU"),
        ("engine", "Joules per generated token"),
    }
