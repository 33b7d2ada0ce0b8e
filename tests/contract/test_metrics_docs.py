"""docs/metrics.md is what worker and operator export; names, units and labels are in bounds."""

from __future__ import annotations

import re
import sys

import pytest
from kit.tools import load_tool
from prometheus_client.core import Metric

GENERATOR = load_tool("generate_metrics")
FAMILIES = [one for found in GENERATOR.families().values() for one in found]
LABELS = GENERATOR.BOUNDED_LABELS | {
    *("namespace", "job", "gpu", "stage", "version", "resource", "verb", "code"),
}


def test_the_page_is_current() -> None:
    page = GENERATOR.PAGE.read_text(encoding="utf-8")
    assert page == GENERATOR.render(), "run tools/generate_metrics.py"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_metric_has_samples_a_meaning_and_bounded_labels(family: Metric) -> None:
    assert family.samples
    assert re.fullmatch(r"[A-Z0-9].*\.", family.documentation)
    for sample in family.samples:
        assert set(sample.labels) <= LABELS | {"le"}
    assert not re.search(r"milli|micro|_(ms|kb|mb|percent)\b", family.name)


def test_a_stale_page_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GENERATOR, "render", lambda: "something else")
    monkeypatch.setattr(sys, "argv", ["generate_metrics.py", "--check"])
    assert GENERATOR.main() == 1


def test_the_names_are_those_that_prometheus_has() -> None:
    names = GENERATOR.series_names()
    assert {"pipemax_tokens_total", "pipemax_step_duration_seconds_bucket"} <= names
    assert "pipemax_tokens" not in names
