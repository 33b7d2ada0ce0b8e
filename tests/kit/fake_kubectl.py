"""A ``kubectl`` on the PATH that answers from files, and a cluster's documents for it.

The program prints the file whose name is its arguments' last word that a file is named after: the
resource, or the pod of a raw path. A file ``NAME.error`` is said on stderr, and it fails.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from kit.progress import make_snapshot
from pipemax_worker.telemetry.progress import progress_as_json

_PROGRAM = """\
#!{python}
import pathlib, sys
folder = pathlib.Path({folder!r})
with open(folder / "calls", "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
words = [word for argument in sys.argv[1:] for word in argument.replace(":", "/").split("/")]
for word in reversed(words):
    if (folder / (word + ".error")).exists():
        sys.exit((folder / (word + ".error")).read_text())
    if (folder / word).is_file():
        sys.stdout.write((folder / word).read_text())
        sys.exit(0)
sys.exit("error: no such thing: " + " ".join(words))
"""


class FakeKubectl:
    """On the PATH of this process from now on. Answers lie in ``folder``."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        program = folder / "kubectl"
        program.write_text(_PROGRAM.format(python=sys.executable, folder=str(folder)))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def answer(self, name: str, *items: dict[str, Any]) -> None:
        (self.folder / name).write_text(json.dumps({"kind": "List", "items": items}))

    def answer_page(self, pod: str, **changes: Any) -> None:
        (self.folder / pod).write_bytes(progress_as_json(make_snapshot(**changes)))

    def fail(self, name: str, words: str) -> None:
        (self.folder / f"{name}.error").write_text(words)

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


def job_document(name: str, phase: str = "Running", reason: str = "") -> dict[str, Any]:
    """An InferenceJob in namespace ``a``."""
    kind = {"Pending": "Progressing"}.get(phase, phase)
    return {
        "metadata": {"namespace": "a", "name": name},
        "status": {
            "phase": phase,
            "progress": {
                **{"percent": "42%", "summary": "420/~1000", "failed": 3, "completed": 417},
                **{"tokensPerSecond": 1234, "remaining": "3h5m"},
            },
            "swap": {"hostToDeviceBytes": 3 << 30, "deviceToHostBytes": 1 << 30},
            "energy": {"joules": 7_200_000, "gpuHours": 2.5},
            "conditions": [{"type": kind, "status": "True", "reason": reason}],
        },
    }


def pod_document(name: str, phase: str = "Running", port: int | None = 9400) -> dict[str, Any]:
    """A worker of the job that its name begins with."""
    ports = [] if port is None else [{"name": "metrics", "containerPort": port}]
    labels = {"pipemax.dev/inferencejob": name.rpartition("-")[0]}
    return {
        "metadata": {"namespace": "a", "name": name, "labels": labels},
        "spec": {"nodeName": "node-a", "containers": [{"name": "worker", "ports": ports}]},
        "status": {"phase": phase},
    }
