"""From ``kubectl apply`` to records on disk: real control plane, operator, nodes and worker."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.operator_process import running_operator
from kit.control_plane.real_node import RealNode, real_nodes
from kit.control_plane.real_node_job import (
    WORKER_USER,
    Document,
    RealNodeJob,
    pin_to,
    read_metrics,
    worker_settings,
)
from kit.control_plane.real_node_needs import ALLOW_STANDIN, NodesImpossibleError

pytestmark = pytest.mark.xdist_group("real-nodes")

Nodes = Mapping[str, RealNode]


@pytest.fixture(scope="module")
def nodes(control_plane: ControlPlane) -> Iterator[Nodes]:
    """Two nodes with 8 GPUs each."""
    try:
        with real_nodes(control_plane, "a", "b") as found:
            yield found
    except NodesImpossibleError as problem:
        if os.environ.get(ALLOW_STANDIN) != "1":
            raise
        pytest.skip(str(problem))


@pytest.fixture
def operator(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[None]:
    with running_operator(control_plane, tmp_path, namespace, worker_settings()):
        yield


@pytest.fixture
def job(
    control_plane: ControlPlane, nodes: Nodes, operator: None, namespace: str
) -> Iterator[RealNodeJob]:
    """A job's folders; its pods are gone before the next test wants the nodes."""
    job = RealNodeJob(control_plane, namespace, nodes["a"].folder.parent, num_requests=120)
    yield job
    control_plane.kubectl("delete", "ij", "--all", "-n", namespace, "--ignore-not-found")
    control_plane.kubectl("delete", "pods", "--all", "-n", namespace, "--force")


def eventually(job: RealNodeJob, found: Callable[[], Any], timeout_seconds: float = 120.0) -> Any:
    """The first true answer. AssertionError with all that Kubernetes knows if there is none."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(0.2)
    raise AssertionError(f"not in time:\n{job.describe()}")


def condition(status: Document, kind: str) -> Document:
    return next(c for c in status["conditions"] if c["type"] == kind)


def reaches(job: RealNodeJob, phase: str) -> Callable[[], Document | None]:
    def check() -> Document | None:
        status = job.status()
        return status if status.get("phase") == phase else None

    return check


def test_from_apply_to_records(job: RealNodeJob, nodes: Nodes) -> None:
    node = nodes["a"]
    document = job.document(node.nvme, stages=8, scheduling=pin_to(node))
    job.apply(document | {"spec": document["spec"] | {"ttlSecondsAfterFinished": 3}})
    pod = eventually(job, lambda: [one for one in job.pods() if one["status"].get("podIP")])[0]
    assert pod["spec"]["nodeName"] == node.name
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    eventually(job, reaches(job, "Running"))
    metrics, rows = watch_to_the_end(job, pod)
    assert metrics["pipemax_tokens_total"] > 0
    assert metrics["pipemax_kv_blocks"] > 0
    assert any(row.split()[1] == "Running" and row.split()[2] != "0%" for row in rows), rows
    assert rows[-1].split()[1:4] == ["Complete", "100%", "120/120"], rows
    job.check_answers()
    assert (job.output / "manifest.json").stat().st_uid == WORKER_USER
    assert node.own_nvme().stat().st_uid == WORKER_USER
    assert not list(node.own_nvme().iterdir()), "nothing is parked when all is done"
    eventually(job, lambda: "No resources" in job.row() or not job.row())
    eventually(job, lambda: not job.pods())
    job.check_answers()


def watch_to_the_end(job: RealNodeJob, pod: Document) -> tuple[dict[str, float], list[str]]:
    """The last metrics of the worker, and each row that ``kubectl get`` printed on the way."""
    metrics: dict[str, float] = {}
    rows: list[str] = []

    def is_over() -> bool:
        metrics.update(read_metrics(pod))
        row = job.row()
        if row and (not rows or rows[-1] != row):
            rows.append(row)
        return "Complete" in row or "Failed" in row

    eventually(job, is_over, 200)
    return metrics, rows
