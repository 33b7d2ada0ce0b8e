"""A module of tools/control_plane: what is fetched and built from it, in a per-user cache."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from kit.control_plane.binaries import BinariesMissingError, find_go

_TOOLS = Path(__file__).parents[3] / "tools" / "control_plane"


class GoModule:
    """``name``: the module's folder below tools/control_plane."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = _TOOLS / name

    @property
    def cache(self) -> Path:
        """Named by the module's files: other versions do not meet."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.iterdir()):
            digest.update(path.read_bytes())
        root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        return root / "pipemax" / self.name / digest.hexdigest()[:16]

    @contextlib.contextmanager
    def locked(self) -> Iterator[Path]:
        """The cache, to one process at a time: two test processes build once."""
        self.cache.mkdir(parents=True, exist_ok=True)
        with open(self.cache / ".lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self.cache

    def source(self, path: str) -> Path:
        """The folder of the required module ``path``, fetched and checked against go.sum."""
        return Path(json.loads(self.go("mod", "download", "-json", path))["Dir"])

    def go(self, *arguments: str) -> str:
        """What Go prints. Raises BinariesMissingError if there is no Go, or if it fails."""
        try:
            return subprocess.run(
                [find_go(), *arguments],
                cwd=self.folder,
                env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"},
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            ).stdout
        except subprocess.CalledProcessError as error:
            raise BinariesMissingError(
                f"`go {' '.join(arguments)}` in {self.folder} ended with {error.returncode}: "
                f"{error.stdout.strip() or 'its words are above'}. It needs the network "
                "once; `make control-plane` tries again"
            ) from error


def put_file(path: Path, content: bytes) -> None:
    """Into a name of its own first: a killed process leaves nothing that looks whole."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.rename(path)
