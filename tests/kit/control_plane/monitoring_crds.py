"""prometheus-operator's CustomResourceDefinitions, out of its Go module into a per-user cache."""

from __future__ import annotations

from pathlib import Path

from kit.control_plane.go_module import GoModule, put_file

_TOOLS = GoModule("monitoring")
_MODULE = "github.com/prometheus-operator/prometheus-operator"
_FOLDER = "example/prometheus-operator-crd"
_KINDS = ("servicemonitors", "podmonitors", "prometheusrules")


def find_monitoring_crds() -> list[Path]:
    """Of the kinds that the chart has. Raises BinariesMissingError where there is no Go."""
    with _TOOLS.locked() as folder:
        paths = [folder / f"monitoring.coreos.com_{kind}.yaml" for kind in _KINDS]
        for path in paths:
            if not path.is_file():
                put_file(path, (_TOOLS.source(_MODULE) / _FOLDER / path.name).read_bytes())
        return paths


if __name__ == "__main__":
    for crd in find_monitoring_crds():
        print(f"CustomResourceDefinition: {crd}")
