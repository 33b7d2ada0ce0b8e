"""Grafana's own types accept each dashboard, and refuse what they should."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from kit.dashboards import DASHBOARDS
from kit.grafana_schema import find_faults, unit_names

Json = dict[str, Any]

# One compiler for all of them: it takes seconds to start.
pytestmark = pytest.mark.xdist_group("grafana types")


def panel_of(dashboard: Json, kind: str) -> Json:
    found: Json = next(panel for panel in dashboard["panels"] if panel["type"] == kind)
    return found


def series(dashboard: Json) -> Json:
    return panel_of(dashboard, "timeseries")


WRONG: dict[str, tuple[Callable[[Json], object], str]] = {
    "unknown_panel_type": (
        lambda one: series(one).update(type="graph"),
        "'\"graph\"' does not satisfy",
    ),
    "unknown_panel_key": (
        lambda one: series(one).update(span=12),
        "'\"span\"' does not exist",
    ),
    "panel_without_a_place": (
        lambda one: series(one).pop("gridPos"),
        "'gridPos' is missing",
    ),
    "misspelt_query": (
        lambda one: series(one)["targets"][0].update(expression="up"),
        "'\"expression\"' does not exist",
    ),
    "query_of_no_format": (
        lambda one: series(one)["targets"][0].update(format="csv"),
        "'\"csv\"' is not assignable",
    ),
    "field_option_of_no_value": (
        lambda one: series(one)["fieldConfig"]["defaults"]["custom"].update(showPoints="seldom"),
        "'\"seldom\"' is not assignable",
    ),
    "option_of_another_panel": (
        lambda one: panel_of(one, "stat")["options"].update(yAxis={}),
        "'\"yAxis\"' does not exist",
    ),
    "text_for_a_number": (
        lambda one: series(one)["fieldConfig"]["defaults"].update(min="0"),
        "'string' is not assignable to type 'number'",
    ),
    "variable_that_never_hides": (
        lambda one: one["templating"]["list"][1].update(hide=9),
        "'9' is not assignable",
    ),
    "variable_without_a_query": (
        lambda one: one["templating"]["list"][1].update(query={"query": "label_values(up, job)"}),
        "'refId' is missing",
    ),
    "unknown_key": (
        lambda one: one.update(rows=[]),
        "'\"rows\"' does not exist",
    ),
    "link_without_a_title": (
        lambda one: one["links"][0].pop("title"),
        "'title' is missing",
    ),
}


@pytest.fixture(scope="module")
def faults() -> dict[str, list[str]]:
    """What the compiler says of ours, and of the fleet's with one wrong in it each."""
    ours = {name_of(dashboard): dashboard for dashboard in DASHBOARDS}
    wrong: dict[str, Json] = {}
    for name, (spoil, _) in WRONG.items():
        wrong[name] = copy.deepcopy(ours["pipemax_fleet"])
        spoil(wrong[name])
    return find_faults({**ours, **wrong})


def name_of(dashboard: Json) -> str:
    return str(dashboard["uid"]).replace("-", "_")


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=name_of)
def test_grafanas_types_accept_the_dashboard(dashboard: Json, faults: dict[str, list[str]]) -> None:
    assert faults[name_of(dashboard)] == []


@pytest.mark.parametrize("name", WRONG)
def test_grafanas_types_refuse(name: str, faults: dict[str, list[str]]) -> None:
    assert faults[name], "accepted"
    assert WRONG[name][1] in faults[name][0]


def test_every_unit_is_one_of_grafanas() -> None:
    used = {
        panel["fieldConfig"]["defaults"]["unit"]
        for dashboard in DASHBOARDS
        for panel in dashboard["panels"]
    }
    assert used <= unit_names()
    assert "percents" not in unit_names()


def test_numbers_have_the_colour_that_the_dashboard_gives_them() -> None:
    """Without thresholds of its own, a panel has Grafana's: red from 80 on, whatever the unit."""
    for dashboard in DASHBOARDS:
        for panel in dashboard["panels"]:
            steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
            assert steps[0]["value"] is None
            bounds = [step["value"] for step in steps[1:]]
            assert bounds == sorted(set(bounds)), panel["title"]
