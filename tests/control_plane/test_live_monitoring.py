"""A real Prometheus scrapes a real run and a real operator: every panel shows something.

The run is `pipemax run` of the example model on CPU, two stages, with tiers so small that KV moves
to the host and to NVMe. The operator looks after an InferenceJob whose pod is that process, so that
progress, ETA and deadline are the run's own. What only GPUs have is left out, by name.
"""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.operator_process import free_port, running_operator
from kit.control_plane.parent_bound import start_bound
from kit.control_plane.stand_in_node import StandInNode
from kit.dashboards import DASHBOARDS, fill_in, panels_of
from kit.live_prometheus import LivePrometheus, Target, running_prometheus, wait_for
from kit.tools import ROOT

RULES = ROOT / "manifests" / "monitoring" / "prometheus-rules.yaml"
NUM_COPIES_OF_PROMPTS = 20  # so that the run outlasts the test, which ends it
TIMEOUT_SECONDS = 120.0

JOB = {
    "apiVersion": "pipemax.dev/v1alpha1",
    "kind": "InferenceJob",
    "metadata": {"name": "reviews"},
    "spec": {
        "model": {"uri": "hostPath:///models/tiny"},
        "input": {"uri": "hostPath:///data/prompts.jsonl"},
        "output": {"uri": "hostPath:///results/reviews"},
        "deadline": "12h",
    },
}
QUERIES = {
    f"{panel.dashboard} / {panel.title} / {number}": fill_in(query)
    for dashboard in DASHBOARDS
    for panel in panels_of(dashboard)
    if not panel.needs_gpu
    for number, query in enumerate(panel.queries)
}


@dataclass(frozen=True)
class Watched:
    prometheus: LivePrometheus
    worker_log: Path

    def wait_for_all(self, queries: dict[str, str]) -> None:
        """Until each has a value, be it only for a moment: an ETA comes with the first percent."""
        left = dict(queries)

        def is_done() -> bool:
            for name in [n for n, query in left.items() if self.prometheus.values(query)]:
                del left[name]
            return not left

        def explain() -> str:
            said = self.worker_log.read_text(encoding="utf-8", errors="replace")[-2000:]
            return f"no data: {json.dumps(left, indent=1)}\n{said}"

        wait_for(is_done, TIMEOUT_SECONDS, explain)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[int]:
    """The port of a run that goes on and on."""
    port = free_port()
    job_file = write_job(tmp_path)
    command = [sys.executable, "-m", "pipemax_worker.cli.main", "run", str(job_file)]
    with (tmp_path / "worker.log").open("wb") as log:
        process = start_bound([*command, "--port", str(port)], log)
    yield port
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def write_job(folder: Path) -> Path:
    """The example's prompts many times over, each with an id of its own."""
    example = ROOT / "manifests" / "examples" / "quickstart" / "prompts.jsonl"
    lines = [json.loads(line) for line in example.read_text(encoding="utf-8").splitlines()]
    with (folder / "prompts.jsonl").open("w", encoding="utf-8") as prompts:
        for number in range(NUM_COPIES_OF_PROMPTS):
            for line in lines:
                named = {**line, "custom_id": f"{number}-{line['custom_id']}"}
                prompts.write(json.dumps(named) + "\n")
    spec = {
        "model": {"uri": str(ROOT / "models" / "tiny"), "name": "tiny", "aliases": ["tiny-sorter"]},
        "input": {"uri": "prompts.jsonl"},
        "output": {"uri": "out"},
        "parallelism": {"stagesPerNode": 2},
        "engine": {
            **{"device": "cpu", "microBatches": 2, "maxNumRequests": 96},
            "deviceKvCache": "6400Ki",
        },
        "kvCache": {"host": "6Mi", "nvme": {"emptyDir": {}, "size": "64Mi"}},
        "sampling": {"temperature": 0, "maxTokens": 200},
    }
    document = {**JOB, "spec": spec}
    (folder / "job.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return folder / "job.yaml"


@pytest.fixture
def watched(
    control_plane: ControlPlane, namespace: str, worker: int, tmp_path: Path
) -> Iterator[Watched]:
    """All of it at work: the job is applied, its pod runs, Prometheus scrapes."""
    node = StandInNode(control_plane, f"stand-in-{uuid.uuid4().hex[:8]}")
    node.join()
    pages = free_port()
    environment = {
        "PIPEMAX_WORKER_SETTINGS": json.dumps({"poll_seconds": 0.5, "metrics_port": worker}),
        "PIPEMAX_METRICS_PORT": str(pages),
    }
    with running_operator(control_plane, tmp_path, namespace, environment):
        control_plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(JOB))
        pod = find_pod(control_plane, namespace)
        node.run_pod(namespace, pod)
        labels = {"namespace": namespace, "job": "reviews", "node": node.name, "pod": pod}
        targets = [
            Target("workers", worker, labels),
            Target("operator", pages, {"namespace": "pipemax-system"}, keeps_labels=True),
        ]
        with running_prometheus(tmp_path, targets, RULES) as prometheus:
            yield Watched(prometheus, tmp_path / "worker.log")
    node.leave()


def find_pod(plane: ControlPlane, namespace: str) -> str:
    """Of the job, once it is on a node."""
    found: list[str] = []

    def is_there() -> bool:
        pods = plane.get("pods", "-n", namespace)["items"]
        found[:] = [pod["metadata"]["name"] for pod in pods if pod["spec"].get("nodeName")]
        return bool(found)

    wait_for(is_there, TIMEOUT_SECONDS, lambda: "no pod is scheduled")
    return found[0]


def test_every_panel_shows_something_and_no_alert_fires(watched: Watched) -> None:
    watched.wait_for_all(QUERIES)
    links = (("device", "host"), ("host", "device"), ("host", "nvme"), ("nvme", "host"))
    moved = {
        f"{source} to {target}": (
            f'pipemax_kv_swap_bytes_total{{source="{source}", target="{target}"}} > 0'
        )
        for source, target in links
    }
    watched.wait_for_all(moved)
    prometheus = watched.prometheus
    assert prometheus.values("pipemax_job_deadline_timestamp_seconds > time() + 3600")
    rules = prometheus.rules()
    assert {rule["health"] for rule in rules} == {"ok"}, rules
    assert len(rules) == sum(
        len(group["rules"]) for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    )
    assert {rule["name"] for rule in rules if rule.get("state") == "firing"} == set()
