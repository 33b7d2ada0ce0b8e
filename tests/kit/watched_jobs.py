"""Real runs of `pipemax run`, each standing behind the pod of an InferenceJob.

Where no container runtime is, a stand-in node's pod is the process that a test starts itself: the
operator asks it for its progress, Prometheus scrapes it, and both sides are the product's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.parent_bound import start_bound
from kit.live_prometheus import Target, wait_for
from kit.tools import ROOT

Json = dict[str, Any]

PROMPTS = ROOT / "manifests" / "examples" / "quickstart" / "prompts.jsonl"
POD_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class WatchedJob:
    """``address``: of its worker, on loopback; all have the same port, as pods have.
    ``num_copies`` of the example's prompts. Every ``wrong_line_every``-th has no messages."""

    name: str
    address: str = "127.0.0.1"
    num_copies: int = 1
    wrong_line_every: int = 0
    deadline: str = "12h"
    num_stages: int = 2
    engine: Mapping[str, Any] = field(default_factory=dict)
    kv_cache: Mapping[str, Any] = field(default_factory=dict)

    def as_applied(self) -> Json:
        """The InferenceJob in the cluster."""
        spec = {
            "model": {"uri": "hostPath:///models/tiny"},
            "input": {"uri": "hostPath:///data/prompts.jsonl"},
            "output": {"uri": f"hostPath:///results/{self.name}"},
            "parallelism": {"stagesPerNode": self.num_stages},
            "deadline": self.deadline,
        }
        return self._document(spec)

    def as_run_here(self) -> Json:
        """The same job on this machine's CPU."""
        spec = {
            "model": {
                **{"uri": str(ROOT / "models" / "tiny"), "name": "tiny"},
                "aliases": ["tiny-sorter"],
            },
            "input": {"uri": "prompts.jsonl"},
            "output": {"uri": "out"},
            "parallelism": {"stagesPerNode": self.num_stages},
            "engine": {"device": "cpu", **self.engine},
            "kvCache": dict(self.kv_cache),
            "sampling": {"temperature": 0, "maxTokens": 200},
        }
        return self._document(spec)

    def _document(self, spec: Json) -> Json:
        return {
            "apiVersion": "pipemax.dev/v1alpha1",
            "kind": "InferenceJob",
            "metadata": {"name": self.name},
            "spec": spec,
        }

    def write(self, folder: Path) -> Path:
        """The job file and its prompts, each with an id of its own."""
        lines = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
        with (folder / "prompts.jsonl").open("w", encoding="utf-8") as prompts:
            for number, line in enumerate(lines * self.num_copies):
                named = {**line, "custom_id": f"{number}-{line['custom_id']}"}
                if self.wrong_line_every and number % self.wrong_line_every == 0:
                    named["body"] = {**line["body"], "messages": []}
                prompts.write(json.dumps(named) + "\n")
        file = folder / "job.yaml"
        file.write_text(yaml.safe_dump(self.as_run_here()), encoding="utf-8")
        return file


class Worker:
    """The process of one job."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self._process = process
        self.folder = folder

    def stage_ids(self) -> list[int]:
        """Of the stages' processes, which the driver's fork server has started."""
        parents = dict(_processes_and_parents())
        return [one for one, parent in parents.items() if parents.get(parent) == self._process.pid]

    @property
    def exit_code(self) -> int | None:
        """None as long as it runs."""
        return self._process.poll()

    @property
    def last_words(self) -> str:
        """What Kubernetes would have of it as the container's termination message."""
        return (self.folder / "termination").read_text(encoding="utf-8")

    @property
    def log(self) -> str:
        return (self.folder / "worker.log").read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _processes_and_parents() -> Iterator[tuple[int, int]]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            after_name = path.read_text(encoding="utf-8").rpartition(")")[2].split()
            yield int(path.parent.name), int(after_name[1])


@contextlib.contextmanager
def running_worker(job: WatchedJob, port: int, folder: Path) -> Iterator[Worker]:
    """``pipemax run`` of the job in ``folder``, which is made; it is stopped with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "pipemax_worker.cli.main", "run", str(job.write(folder))),
        *("--address", job.address, "--port", str(port)),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "worker"),
        "PIPEMAX_TERMINATION_LOG": str(folder / "termination"),
    }
    with (folder / "worker.log").open("wb") as log:
        worker = Worker(start_bound(command, log, environment), folder)
    try:
        yield worker
    finally:
        worker.stop()


def find_pod(plane: ControlPlane, namespace: str, job: str) -> Json:
    """Of the job, once it is on a node."""
    found: list[Json] = []

    def is_there() -> bool:
        pods = plane.get("pods", "-n", namespace)["items"]
        found[:] = [
            pod
            for pod in pods
            if pod["spec"].get("nodeName") and pod["metadata"]["name"].startswith(f"{job}-")
        ]
        return bool(found)

    wait_for(is_there, POD_TIMEOUT_SECONDS, lambda: f"no pod of {job} is scheduled")
    return found[0]


def target_of(job: WatchedJob, port: int, namespace: str, pod: Json) -> Target:
    """As the chart's PodMonitor labels it."""
    labels = {
        **{"namespace": namespace, "job": job.name},
        **{"node": pod["spec"]["nodeName"], "pod": pod["metadata"]["name"]},
    }
    return Target(f"worker-{job.name}", port, labels, address=job.address)


def apply(plane: ControlPlane, namespace: str, jobs: Sequence[WatchedJob]) -> None:
    documents = yaml.safe_dump_all([job.as_applied() for job in jobs])
    plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=documents)
