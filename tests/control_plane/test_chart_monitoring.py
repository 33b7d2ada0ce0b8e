"""The chart's monitors, alerts and network policy, as the API server takes them.

By prometheus-operator's own CustomResourceDefinitions: no field that they do not know.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from kit.chart import of_kind, one, render
from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.monitoring_crds import find_monitoring_crds

Document = dict[str, Any]

KINDS = ("ServiceMonitor", "PodMonitor", "PrometheusRule", "NetworkPolicy", "ConfigMap")
VALUES: Document = {
    "namespaces": ["jobs-a", "jobs-b"],
    "apiServer": {"address": "10.0.0.1", "port": 6443},
    "monitoring": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True},
        "dashboards": {"enabled": True},
    },
    "networkPolicy": {"enabled": True},
}


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> ControlPlane:
    for path in find_monitoring_crds():
        control_plane.kubectl("apply", "--server-side", "-f", str(path))
    names = [
        f"crd/{p.stem.partition('_')[2]}.monitoring.coreos.com" for p in find_monitoring_crds()
    ]
    control_plane.wait_for_kinds(*names)
    return control_plane


def apply(plane: ControlPlane, documents: list[Document], check: bool = True) -> str:
    """``--validate=strict``: an unknown field is refused instead of dropped."""
    text = yaml.safe_dump_all(documents)
    return plane.kubectl("apply", "--validate=strict", "-f", "-", stdin=text, check=check)


@pytest.mark.parametrize("is_namespaced", [False, True])
def test_every_kind_is_taken(plane: ControlPlane, namespace: str, is_namespaced: bool) -> None:
    values = VALUES if is_namespaced else {**VALUES, "namespaces": []}
    documents = [d for kind in KINDS for d in of_kind(render(values, namespace), kind)]
    assert {d["kind"] for d in documents} == set(KINDS)
    said = apply(plane, documents)
    assert said.count(" created") == len(documents), said
    rule = plane.get("prometheusrule", "-n", namespace)["items"][0]
    assert rule["spec"] == one(documents, "PrometheusRule")["spec"], "nothing was dropped"


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("ServiceMonitor", ("endpoints", 0, "interval"), "often"),
        ("PodMonitor", ("podMetricsEndpoints", 0, "portt"), "metrics"),
        ("PrometheusRule", ("groups", 0, "rules", 0, "for"), "a while"),
        ("NetworkPolicy", ("policyTypes",), ["Inward"]),
    ],
)
def test_what_is_wrong_is_refused(
    plane: ControlPlane, namespace: str, kind: str, path: tuple[str | int, ...], value: object
) -> None:
    """So that the test above can fail."""
    document = copy.deepcopy(one(render(VALUES, namespace), kind))
    place: Any = document["spec"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert str(path[-1]) in apply(plane, [document], check=False)
    assert not plane.get(kind, "-n", namespace)["items"]
