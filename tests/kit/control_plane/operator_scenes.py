"""Operators, their jobs and their workers' stand-ins, for scenes of the operator's own life."""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.operator_process import OperatorProcess
from kit.control_plane.stand_in_node import StandInNode
from kit.ports import free_port

Document = dict[str, Any]

SETTINGS = {"poll_seconds": 0.5, "memory_overhead_bytes": 2**30}
WATCH_SECONDS = 4


def inference_job(name: str) -> Document:
    return {
        "apiVersion": "pipemax.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": "hostPath:///models/tiny"},
            "input": {"uri": "hostPath:///data/prompts.jsonl"},
            "output": {"uri": f"hostPath:///results/{name}"},
            "kvCache": {"host": "1Gi"},
        },
    }


def make_operator(
    plane: ControlPlane, folder: Path, namespace: str, kubeconfig: Path | None = None, **more: Any
) -> OperatorProcess:
    """As the chart runs it; ``more``: fields of its ProcessSettings."""
    folder.mkdir(exist_ok=True)
    settings = {"metrics_port": free_port(), "watch_seconds": WATCH_SECONDS, **more}
    environment = {f"PIPEMAX_{name.upper()}": str(value) for name, value in settings.items()}
    environment["PIPEMAX_WORKER_SETTINGS"] = json.dumps(SETTINGS)
    json_logs = ("--log-format=json",)
    operator = OperatorProcess(
        plane, folder, namespace, environment, kubeconfig, arguments=json_logs
    )
    operator.pages = f"http://127.0.0.1:{settings['metrics_port']}"
    return operator


@contextlib.contextmanager
def running(*operators: OperatorProcess) -> Iterator[None]:
    try:
        for operator in operators:
            operator.start()
        yield
    finally:
        for operator in operators:
            operator.stop()


def apply(plane: ControlPlane, namespace: str, *names: str) -> None:
    documents = yaml.safe_dump_all(inference_job(name) for name in names)
    plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=documents)


def phases(plane: ControlPlane, namespace: str) -> dict[str, str]:
    found = plane.get("inferencejobs", "-n", namespace)["items"]
    return {one["metadata"]["name"]: one.get("status", {}).get("phase", "") for one in found}


def events_of(plane: ControlPlane, namespace: str) -> list[tuple[str, str, str]]:
    """(job, reason, message) of every event of ours, each as often as it was posted."""
    found = plane.get("events", "-n", namespace)["items"]
    own = [one for one in found if one["involvedObject"]["kind"] == "InferenceJob"]
    return [(one["involvedObject"]["name"], one["reason"], one["message"]) for one in own]


class Workers:
    """All pods of a namespace run for a while and end well, in a thread: life goes on while the
    operator is dead."""

    def __init__(self, plane: ControlPlane, node: StandInNode, namespace: str) -> None:
        self._plane, self._node, self._namespace = plane, node, namespace
        self.may_end = threading.Event()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.ended: set[str] = set()

    def __enter__(self) -> Workers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._left.wait(0.2):
            with contextlib.suppress(AssertionError, json.JSONDecodeError):  # the API is away
                for pod in self._plane.get("pods", "-n", self._namespace)["items"]:
                    self._move(pod)

    def _move(self, pod: Document) -> None:
        name, phase = pod["metadata"]["name"], pod["status"].get("phase")
        if phase == "Pending" and pod["spec"].get("nodeName"):
            self._node.run_pod(self._namespace, name)
        elif phase == "Running" and self.may_end.is_set() and name not in self.ended:
            said = {"reason": "Complete", "counts": {"completed": 616, "failed": 0}}
            self._node.end_pod(self._namespace, name, 0, json.dumps(said))
            self.ended.add(name)


def answer(operator: OperatorProcess, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"{operator.pages}{path}", timeout=30) as page:
            return page.status, page.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def writes(operator: OperatorProcess) -> int:
    """Calls that change something, the lease apart."""
    lines = answer(operator, "/metrics")[1].splitlines()
    calls = [one for one in lines if one.startswith("pipemax_api_requests_total{")]
    changing = [one for one in calls if 'verb="get"' not in one and 'verb="list"' not in one]
    return sum(int(float(one.split()[-1])) for one in changing if 'resource="leases"' not in one)
