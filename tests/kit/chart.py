"""The Helm chart as tests see it: rendered by the real Helm, read as plain documents."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml
from kit.control_plane.clients import find_clients

Document = dict[str, Any]

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "pipemax"


class HelmError(Exception):
    """Helm refused; the message is all that it said."""


def run_helm(*arguments: str, values: Document | None = None) -> str:
    """What Helm prints, without a cluster. ``values``: over the chart's own. Raises HelmError."""
    with tempfile.TemporaryDirectory() as home:
        given = Path(home) / "values.json"
        given.write_text(json.dumps(values or {}), encoding="utf-8")
        done = subprocess.run(
            [str(find_clients()["helm"]), *arguments, "--values", str(given)],
            capture_output=True,
            text=True,
            check=False,
            env={"HOME": home, "PATH": "/usr/bin:/bin"},
        )
    if done.returncode != 0:
        raise HelmError(done.stdout + done.stderr)
    return done.stdout


def render(values: Document | None = None, namespace: str = "pipemax-system") -> list[Document]:
    """All objects of the chart as release ``pipemax``. AssertionError for a key given twice."""
    text = run_helm("template", "pipemax", str(CHART), "--namespace", namespace, values=values)
    documents = yaml.load_all(text, Loader=_StrictLoader)
    return [document for document in documents if document is not None]


def of_kind(documents: list[Document], kind: str) -> list[Document]:
    return [document for document in documents if document["kind"] == kind]


def one(documents: list[Document], kind: str) -> Document:
    found = of_kind(documents, kind)
    assert len(found) == 1, f"{len(found)} of {kind}"
    return found[0]


def environment(container: Document) -> dict[str, str]:
    """What is given as it is; what the kubelet would fill in is left out."""
    return {one["name"]: one["value"] for one in container["env"] if "value" in one}


class _StrictLoader(yaml.SafeLoader):
    """PyYAML takes the last of two equal keys; the API server takes neither."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
        twice = {key for key in keys if keys.count(key) > 1}
        assert not twice, f"given twice: {twice}{node.start_mark}"
        return super().construct_mapping(node, deep)
