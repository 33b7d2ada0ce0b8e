"""The chart installed as a user does it: values for this machine, commands with their output."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.real_node_image import IMAGE
from kit.control_plane.real_node_job import Document, worker_settings

PYTHON = str(Path(sys.prefix) / "bin" / "python")


def own_address() -> str:
    """This machine's address on the way out; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])


def chart_values(plane: ControlPlane) -> Document:
    """Operator and workers from this machine's checkout, by values that every user has."""
    settings = json.loads(worker_settings()["PIPEMAX_WORKER_SETTINGS"])
    repository, _, tag = IMAGE.removeprefix("docker.io/").partition(":")
    image = {"registry": "docker.io", "repository": repository, "tag": tag}
    address, _, port = plane.server.removeprefix("https://").rpartition(":")
    common: Document = {
        "image": image,
        "imagePullPolicy": "Never",
        "extraVolumes": settings["extra_volumes"],
        "extraVolumeMounts": settings["extra_volume_mounts"],
    }
    return {
        "apiServer": {"address": address, "port": int(port)},
        "operator": {**common, "command": [PYTHON, "-m", "kopf"], "python": [PYTHON]},
        "worker": {
            **common,
            "command": settings["command"],
            "env": settings["environment"],
            "sharedMemory": "1Gi",
            "memoryOverhead": "4Gi",
            "gpusForCpuJobs": 8,
            "pollSeconds": 2,
        },
    }


class Shell:
    """What a user types and sees, command by command: shown by ``pytest -rP``."""

    def __init__(self, plane: ControlPlane, short: Mapping[str, str]) -> None:
        self._plane = plane
        self._short = dict(short)

    def kubectl(self, *arguments: str) -> str:
        return self._show("kubectl", arguments, self._plane.kubectl(*arguments))

    def helm(self, *arguments: str) -> str:
        return self._show("helm", arguments, self._plane.helm(*arguments))

    def top(self, *arguments: str) -> str:
        """One frame of ``pipemax top --cluster``, through the real kubectl."""
        plane = self._plane
        path = f"{plane.kubectl_path.parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [PYTHON, "-m", "pipemax_worker.cli.main", "top", "--cluster", "--once", *arguments],
            env={
                **os.environ,
                **{"PATH": path, "KUBECONFIG": str(plane.kubeconfig), "COLUMNS": "110"},
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _show(self, program: str, arguments: tuple[str, ...], said: str) -> str:
        text = f"$ {' '.join((program, *arguments))}\n{said}"
        for long, short in self._short.items():
            text = text.replace(long, short)
        print(text)
        return said


@contextlib.contextmanager
def watching(plane: ControlPlane, path: Path) -> Iterator[Callable[[], list[str]]]:
    """``kubectl get inferencejobs -w`` as long as the block runs: its lines so far."""
    with path.open("w+") as seen:
        watch = subprocess.Popen(
            [str(plane.kubectl_path), "get", "inferencejobs", "-n", "jobs", "-w"],
            env=os.environ | {"KUBECONFIG": str(plane.kubeconfig)},
            stdin=subprocess.DEVNULL,
            stdout=seen,
        )
        try:
            yield lambda: path.read_text().splitlines()
        finally:
            watch.kill()
            watch.wait()
