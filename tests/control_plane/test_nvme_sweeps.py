"""Jobs' folders on nodes' own disks, from the first pod to the last sweep: on real nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kit.control_plane import waiting
from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.operator_process import running_operator
from kit.control_plane.real_node import RealNode
from kit.control_plane.real_node_job import (
    WORKER_USER,
    Document,
    RealNodeJob,
    pin_to,
    worker_settings,
)
from kit.control_plane.required_nodes import Nodes
from kit.control_plane.running_job import SLOW

pytestmark = pytest.mark.xdist_group("real-nodes")

PARKED, LOST, DONE = "nvme-parked", "nvme-lost", "nvme-done"
SYSTEM = "nvme-system"


@pytest.fixture
def jobs(
    control_plane: ControlPlane, nodes: Nodes, tmp_path: Path
) -> Iterator[dict[str, RealNodeJob]]:
    """One job in each of three namespaces, and an operator that sweeps from a fourth."""
    for name in (SYSTEM, PARKED, LOST, DONE):
        control_plane.kubectl("create", "namespace", name)
    host = nodes["a"].folder.parent
    sizes = {PARKED: (3, 8), LOST: (3, 8), DONE: (1, 4)}
    environment = worker_settings(system_namespace=SYSTEM)
    with running_operator(control_plane, tmp_path, None, environment) as operator:
        yield {name: RealNodeJob(control_plane, name, host, *size) for name, size in sizes.items()}
        print(operator.log.read_text(encoding="utf-8")[-3000:])
        control_plane.kubectl("delete", "ij", "--all", "-A", "--ignore-not-found")
        for name in (SYSTEM, PARKED, LOST, DONE):
            control_plane.kubectl("delete", "jobs,pods", "--all", "--force", "-n", name)
            control_plane.kubectl("delete", "namespace", name, "--wait=false")


def eventually(job: RealNodeJob, found: Callable[[], Any], timeout_seconds: float = 150.0) -> Any:
    """The first true answer. AssertionError with all that Kubernetes knows if there is none."""
    sweeps = ("get", "jobs,pods,events", "-n", SYSTEM, "-o", "wide")
    return waiting.eventually(
        found, timeout_seconds, lambda: f"{job.describe()}\n{job.plane.kubectl(*sweeps)}"
    )


def phase(job: RealNodeJob) -> str:
    return str(job.status().get("phase"))


def folders(node: RealNode) -> set[str]:
    """The jobs with a folder on its disk."""
    return {path.name for path in node.own_nvme().iterdir()}


def uid_of(job: RealNodeJob) -> str:
    found: Document = job.plane.get("ij", job.name, "-n", job.namespace)
    return str(found["metadata"]["uid"])


def records(plane: ControlPlane) -> set[str]:
    """The UIDs that the operator remembers."""
    found = plane.get("configmaps", "-n", SYSTEM, "-l", "pipemax.dev/nvme-record")["items"]
    return {one["metadata"]["name"].removeprefix("pipemax-nvme-") for one in found}


def test_folders_go_with_their_jobs_and_with_no_others(
    control_plane: ControlPlane, jobs: dict[str, RealNodeJob], nodes: Nodes
) -> None:
    a, b = nodes["a"], nodes["b"]
    parked, lost, done = jobs[PARKED], jobs[LOST], jobs[DONE]

    # One job is suspended on node a, with its KV parked; another one runs on node b.
    parked.apply(parked.document(a.nvme, stages=2, scheduling=pin_to(a), engine=SLOW))
    lost.apply(lost.document(b.nvme, stages=2, scheduling=pin_to(b), engine=SLOW))
    eventually(parked, lambda: parked.num_records() >= 1)
    parked.patch({"suspend": True})
    eventually(parked, lambda: phase(parked) == "Suspended" and not parked.pods())
    (park_file,) = a.own_nvme().glob("*/kv/*/park.json")
    assert folders(a) == {uid_of(parked)}
    assert park_file.stat().st_uid == WORKER_USER
    assert (a.own_nvme() / uid_of(parked)).stat().st_uid == 0

    # Node b is lost, and the job deleted while it is away.
    eventually(lost, lambda: lost.num_records() >= 1)
    lost_uid = uid_of(lost)
    b.crash()
    control_plane.kubectl("delete", "ij", lost.name, "-n", LOST)

    # A third job runs to its end on node a, beside what is parked there. Its output's folder is not
    # there yet: the kubelet makes it, as root, and the worker can write all the same.
    done.output = done.folder / "new" / "output"
    output = {"uri": f"hostPath://{done.output}", "shared": True}
    done.apply(done.document(a.nvme, stages=2, scheduling=pin_to(a), output=output))
    done_uid = uid_of(done)
    eventually(done, lambda: phase(done) == "Complete")
    done.check_answers()
    assert (done.output / "manifest.json").stat().st_uid == WORKER_USER
    eventually(done, lambda: folders(a) == {uid_of(parked)})
    done.note("swept")
    assert park_file.exists(), "suspended, not ended"
    eventually(done, lambda: done_uid not in records(control_plane))

    # Node b comes back, with what the deleted job has left there.
    assert folders(b) == {lost_uid}
    assert lost_uid in records(control_plane)
    b.start()
    lost.note("node b is back")
    eventually(parked, lambda: not folders(b))
    lost.note("swept")

    # At last the suspended job is deleted: nothing is left anywhere.
    control_plane.kubectl("delete", "ij", parked.name, "-n", PARKED)
    eventually(parked, lambda: not folders(a) and not records(control_plane))
    pods = control_plane.get("pods", "-n", SYSTEM)["items"]
    assert {str(pod["spec"]["automountServiceAccountToken"]) for pod in pods} <= {"False"}
