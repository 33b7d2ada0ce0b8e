"""A real Prometheus scrapes a real run and a real operator: every panel shows something.

The run is `pipemax run` of the example model on CPU, two stages, with tiers so small that KV moves
to the host and to NVMe. The operator looks after an InferenceJob whose pod is that process, so that
progress, ETA and deadline are the run's own. What only GPUs have is left out, by name.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.operator_process import running_operator
from kit.control_plane.stand_in_node import StandInNode
from kit.dashboards import DASHBOARDS, fill_in, panels_of
from kit.live_prometheus import LivePrometheus, Target, running_prometheus, wait_for
from kit.ports import free_port
from kit.tools import ROOT
from kit.watched_jobs import WatchedJob, Worker, apply, find_pod, running_worker, target_of

RULES = ROOT / "manifests" / "monitoring" / "prometheus-rules.yaml"
TIMEOUT_SECONDS = 120.0

JOB = WatchedJob(
    "reviews",
    num_copies=20,  # so that the run outlasts the test, which ends it
    engine={"microBatches": 2, "maxNumRequests": 96, "deviceKvCache": "6400Ki"},
    kv_cache={"host": "6Mi", "nvme": {"emptyDir": {}, "size": "64Mi"}},
)


def without_nought(query: str) -> str:
    """What the query finds of itself; that no alert fires is an answer."""
    return query if "ALERTS" in query else query.removesuffix(" or vector(0)")


QUERIES = {
    f"{panel.dashboard} / {panel.title} / {number}": without_nought(fill_in(query))
    for dashboard in DASHBOARDS
    for panel in panels_of(dashboard)
    if not panel.needs_gpu
    for number, query in enumerate(panel.queries)
}


@dataclass(frozen=True)
class Watched:
    prometheus: LivePrometheus
    worker: Worker

    def wait_for_all(self, queries: dict[str, str]) -> None:
        """Until each has a value, be it only for a moment: an ETA comes with the first percent."""
        left = dict(queries)

        def is_done() -> bool:
            for name in [n for n, query in left.items() if self.prometheus.values(query)]:
                del left[name]
            return not left

        def explain() -> str:
            return f"no data: {json.dumps(left, indent=1)}\n{self.worker.log[-2000:]}"

        wait_for(is_done, TIMEOUT_SECONDS, explain)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[tuple[Worker, int]]:
    """A run that goes on and on, and its port."""
    port = free_port()
    with running_worker(JOB, port, tmp_path / "worker") as process:
        yield process, port


@pytest.fixture
def watched(
    control_plane: ControlPlane, namespace: str, worker: tuple[Worker, int], tmp_path: Path
) -> Iterator[Watched]:
    """All of it at work: the job is applied, its pod runs, Prometheus scrapes."""
    node = StandInNode(control_plane, f"stand-in-{uuid.uuid4().hex[:8]}")
    node.join()
    process, port = worker
    pages = free_port()
    environment = {
        "PIPEMAX_WORKER_SETTINGS": json.dumps({"poll_seconds": 0.5, "metrics_port": port}),
        "PIPEMAX_METRICS_PORT": str(pages),
    }
    with running_operator(control_plane, tmp_path, namespace, environment):
        apply(control_plane, namespace, [JOB])
        pod = find_pod(control_plane, namespace, JOB.name)
        node.run_pod(namespace, pod["metadata"]["name"])
        targets = [
            target_of(JOB, port, namespace, pod),
            Target("operator", pages, {"namespace": "pipemax-system"}, keeps_labels=True),
        ]
        with running_prometheus(tmp_path, targets, RULES) as prometheus:
            yield Watched(prometheus, process)
    node.leave()


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
    wait_for(
        lambda: "unknown" not in {rule["health"] for rule in prometheus.rules()},
        TIMEOUT_SECONDS,
        lambda: f"not evaluated yet: {prometheus.rules()}",
    )
    rules = prometheus.rules()
    assert {rule["health"] for rule in rules} == {"ok"}, rules
    assert len(rules) == sum(
        len(group["rules"]) for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    )
    assert {rule["name"] for rule in rules if rule.get("state") == "firing"} == set()
