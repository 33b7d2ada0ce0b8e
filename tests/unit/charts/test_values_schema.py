"""Values that the schema refuses, with the field named; and that it knows all of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from kit.chart import CHART, HelmError, render

Document = dict[str, Any]


@pytest.fixture(scope="module")
def schema() -> Document:
    found: Document = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"worker": {"sharedMemory": "8GB"}}, "/worker/sharedMemory"),
        ({"worker": {"memoryOverhead": 16}}, "/worker/memoryOverhead"),
        ({"worker": {"runAsUser": 0}}, "/worker/runAsUser"),
        ({"worker": {"metricsPort": 70000}}, "/worker/metricsPort"),
        ({"worker": {"command": "pipemax"}}, "/worker/command"),
        ({"worker": {"env": {"A": 1}}}, "/worker/env/A"),
        ({"worker": {"env": {"not a name": "1"}}}, "/worker/env"),
        ({"worker": {"pollSeconds": 0}}, "/worker/pollSeconds"),
        ({"worker": {"extraVolumeMounts": [{"name": "x"}]}}, "/worker/extraVolumeMounts/0"),
        ({"worker": {"image": {"tag": "a b"}}}, "/worker/image/tag"),
        ({"operator": {"image": {"digest": "sha256:1"}}}, "/operator/image/digest"),
        ({"operator": {"image": {"repository": ""}}}, "/operator/image/repository"),
        ({"operator": {"imagePullPolicy": "Sometimes"}}, "/operator/imagePullPolicy"),
        ({"operator": {"logFormat": "xml"}}, "/operator/logFormat"),
        ({"operator": {"copies": 2}}, "'copies'"),
        ({"namespaces": ["Not_A_Namespace"]}, "/namespaces/0"),
        ({"namespaces": "jobs"}, "/namespaces"),
        ({"namespaces": ["a", "a"]}, "/namespaces"),
        ({"crds": {"install": "yes"}}, "/crds/install"),
        ({"apiServer": {"address": "https://10.0.0.1"}}, "/apiServer/address"),
        ({"monitoring": {"podMonitor": {"interval": "often"}}}, "/monitoring/podMonitor/interval"),
        ({"networkPolicy": {"apiServerPorts": []}}, "/networkPolicy/apiServerPorts"),
        ({"workers": {}}, "'workers'"),
        ({"jobs": {"allowedHostPaths": ["data"]}}, "/jobs/allowedHostPaths/0"),
        ({"jobs": {"allowedHostPaths": None, "allowedImages": "*"}}, "/jobs/allowedImages"),
        ({"jobs": {"allowedHostPaths": None}}, "'allowedHostPaths'"),
        ({"jobs": {"allowedImages": ["registry.internal*"]}}, "/jobs/allowedImages/0"),
        ({"jobs": {"allowedImages": ["a/*/b"]}}, "/jobs/allowedImages/0"),
    ],
)
def test_bad_values_are_refused_by_their_field(values: Document, field: str) -> None:
    with pytest.raises(HelmError) as refused:
        render(values)
    assert field in str(refused.value)


def paths(node: Document, path: str = "") -> set[str]:
    """Every value, as dotted paths; what is free below ends the path."""
    found = set()
    for name, child in node.items():
        found.add(inner := f"{path}.{name}".removeprefix("."))
        if isinstance(child, dict):
            found |= paths(child, inner)
    return found


def schema_paths(node: Document, path: str = "") -> set[str]:
    found = set()
    for name, child in node.get("properties", {}).items():
        found.add(inner := f"{path}.{name}".removeprefix("."))
        found |= schema_paths(child, inner)
    return found


def test_every_value_that_the_schema_knows_has_its_default_written_down(schema: Document) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    missing = schema_paths(schema) - paths(values)
    assert missing == {"global", "operator.resources.claims"}


def test_no_section_takes_what_it_does_not_know(schema: Document) -> None:
    def check(node: Document, path: str) -> None:
        if "properties" in node:
            assert node["additionalProperties"] is False, path
        for name, child in node.get("properties", {}).items():
            check(child, f"{path}.{name}")

    check(schema, "")
