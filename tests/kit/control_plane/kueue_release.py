"""Kueue's manager and its manifests: built once from its Go module into a per-user cache."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from kit.control_plane.binaries import BinariesMissingError, find_go
from kit.control_plane.clients import find_clients

MODULE_FOLDER = Path(__file__).parents[3] / "tools" / "control_plane" / "kueue"
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
    folder = _cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    found = KueueRelease(folder / "kueue", folder / "manifests.json")
    with open(folder / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test processes build once
        if not found.manifests.is_file():
            _render(found.manifests)
        if not found.manager.is_file():
            _build(found.manager)
    return found


def _cache_folder() -> Path:
    """Named by the module's files: other versions do not meet."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum", "tools.go"):
        digest.update((MODULE_FOLDER / name).read_bytes())
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return root / "pipemax" / "kueue" / digest.hexdigest()[:16]


def _render(path: Path) -> None:
    """``kubectl kustomize`` of the module's own folder: what Kueue's release page offers."""
    module = json.loads(_go("mod", "download", "-json", _MODULE))
    kubectl = find_clients()["kubectl"]
    folder = Path(module["Dir"]) / _MANIFESTS
    rendered = subprocess.run(
        [kubectl, "kustomize", str(folder)], check=True, capture_output=True, text=True
    ).stdout
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    documents: list[Document] = [d for d in yaml.load_all(rendered, loader) if d]
    _put(path, json.dumps(documents).encode())


def _build(path: Path) -> None:
    """Into a name of its own first, so that a killed build leaves nothing that looks whole."""
    version = json.loads(_go("list", "-m", "-json", _MODULE))["Version"]
    flags = f"-s -w -X {_VERSION}={version}"
    partial = path.with_name(f".{path.name}.partial")
    print(f"building Kueue {version} (once)", file=sys.stderr, flush=True)
    _go("build", "-ldflags", flags, "-o", str(partial), f"{_MODULE}/cmd/kueue")
    partial.rename(path)


def _go(*arguments: str) -> str:
    try:
        return subprocess.run(
            [find_go(), *arguments],
            cwd=MODULE_FOLDER,
            env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
    except subprocess.CalledProcessError as error:
        raise BinariesMissingError(
            f"Kueue could not be built: `go {' '.join(arguments)}` in {MODULE_FOLDER} ended with "
            f"{error.returncode} (see above); it needs the Go module proxy, once. "
            "`make control-plane` tries again"
        ) from error


def _put(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.rename(path)


if __name__ == "__main__":
    for part, place in find_kueue()._asdict().items():
        print(f"kueue {part}: {place}")
