"""The CustomResourceDefinition: what kubectl shows of InferenceJobs, and can select them by."""

from __future__ import annotations

from typing import Any

import pytest
from pipemax_operator.crd import build_crd


@pytest.fixture
def version() -> dict[str, Any]:
    (found,) = build_crd()["spec"]["versions"]
    assert isinstance(found, dict)
    return found


def schema_at(version: dict[str, Any], path: str) -> dict[str, Any]:
    node: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    for part in path.removeprefix(".").split("."):
        node = node["properties"][part]
    return node


def test_kubectl_get_shows_the_way_to_the_end(version: dict[str, Any]) -> None:
    columns = version["additionalPrinterColumns"]
    shown = [column["name"] for column in columns if column["priority"] == 0]
    assert shown == ["Phase", "Progress", "Done", "Tokens/s", "ETA", "Age"]
    wide = [column["name"] for column in columns if column["priority"] == 1]
    assert wide == ["Done at", "Model", "Queue"]


def test_each_column_shows_a_field_of_its_type(version: dict[str, Any]) -> None:
    for column in version["additionalPrinterColumns"]:
        if not column["jsonPath"].startswith(".metadata"):
            assert schema_at(version, column["jsonPath"])["type"] == column["type"]


def test_no_column_of_a_time_to_come_is_a_date(version: dict[str, Any]) -> None:
    """kubectl prints dates as ages, and one to come as ``<invalid>``."""
    dates = [c["name"] for c in version["additionalPrinterColumns"] if c["type"] == "date"]
    assert dates == ["Age"]


def test_what_can_be_selected_by_is_text(version: dict[str, Any]) -> None:
    paths = [field["jsonPath"] for field in version["selectableFields"]]
    assert paths == [".status.phase", ".spec.model.uri", ".spec.scheduling.queueName"]
    assert {schema_at(version, path)["type"] for path in paths} == {"string"}
