"""Kueue's manager and its manifests: built once from its Go module into a per-user cache."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from kit.control_plane.clients import find_clients
from kit.control_plane.go_module import GoModule, put_file

_TOOLS = GoModule("kueue")
_MODULE = "sigs.k8s.io/kueue"
_VERSION = f"{_MODULE}/pkg/version.GitVersion"
_MANIFESTS = "config/default"

Document = dict[str, Any]


class KueueRelease(NamedTuple):
    """``manager``: the program. ``manifests``: all that its release applies, as a JSON list."""

    manager: Path
    manifests: Path


def find_kueue() -> KueueRelease:
    """Build what is missing (four minutes on two cores, once).

    Raises BinariesMissingError where there is no Go toolchain; ``make control-plane`` gets one.
    """
    with _TOOLS.locked() as folder:
        found = KueueRelease(folder / "kueue", folder / "manifests.json")
        if not found.manifests.is_file():
            _render(found.manifests)
        if not found.manager.is_file():
            _build(found.manager)
        return found


def _render(path: Path) -> None:
    """``kubectl kustomize`` of the module's own folder: what Kueue's release page offers."""
    folder = _TOOLS.source(_MODULE) / _MANIFESTS
    rendered = subprocess.run(
        [find_clients()["kubectl"], "kustomize", str(folder)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    documents: list[Document] = [d for d in yaml.load_all(rendered, loader) if d]
    put_file(path, json.dumps(documents).encode())


def _build(path: Path) -> None:
    """Into a name of its own first, so that a killed build leaves nothing that looks whole."""
    version = json.loads(_TOOLS.go("list", "-m", "-json", _MODULE))["Version"]
    flags = f"-s -w -X {_VERSION}={version}"
    partial = path.with_name(f".{path.name}.partial")
    print(f"building Kueue {version} (once)", file=sys.stderr, flush=True)
    _TOOLS.go("build", "-ldflags", flags, "-o", str(partial), f"{_MODULE}/cmd/kueue")
    partial.rename(path)


if __name__ == "__main__":
    for part, place in find_kueue()._asdict().items():
        print(f"kueue {part}: {place}")
