"""From ``helm install`` to records: the operator is its own Deployment's pod on a real node."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kit.chart import CHART
from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.real_node import RealNode, real_nodes
from kit.control_plane.real_node_image import IMAGE
from kit.control_plane.real_node_job import Document, RealNodeJob, pin_to, worker_settings
from kit.control_plane.real_node_needs import ALLOW_STANDIN, NodesImpossibleError

pytestmark = pytest.mark.xdist_group("real-nodes")

NUM_REQUESTS = 12
PYTHON = str(Path(sys.prefix) / "bin" / "python")


@pytest.fixture
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """On an address that pods reach: there is no service proxy here."""
    plane = ControlPlane(tmp_path_factory.mktemp("chart-plane"), own_address())
    plane.start()
    try:
        for name in ("pipemax-system", "jobs"):
            plane.kubectl("create", "namespace", name)
        yield plane
    finally:
        plane.stop()


@pytest.fixture
def node(plane: ControlPlane) -> Iterator[RealNode]:
    try:
        with real_nodes(plane, "a") as found:
            yield found["a"]
    except NodesImpossibleError as problem:
        if os.environ.get(ALLOW_STANDIN) != "1":
            raise
        pytest.skip(str(problem))


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
            "pollSeconds": 0.5,
        },
    }


def eventually(job: RealNodeJob, found: Callable[[], Any], timeout_seconds: float = 200.0) -> Any:
    """The first true answer. AssertionError with all that Kubernetes knows if there is none."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(0.5)
    raise AssertionError(f"not in time:\n{job.describe()}")


def test_from_helm_install_to_records(plane: ControlPlane, node: RealNode, tmp_path: Path) -> None:
    values = tmp_path / "values.json"
    values.write_text(json.dumps(chart_values(plane)), encoding="utf-8")
    system = ("--namespace", "pipemax-system")
    print(plane.helm("install", "pipemax", str(CHART), *system, "--values", str(values)))
    rollout = ("rollout", "status", "deployment/pipemax", *system, "--timeout=90s")
    assert "successfully rolled out" in plane.kubectl(*rollout, check=False), operator_log(plane)
    said = plane.helm("test", "pipemax", *system, "--logs", check=False)
    assert "Phase:          Succeeded" in said, said
    print(said, plane.kubectl("get", "all", *system), sep="\n")
    pod = plane.get("pods", *system)["items"][0]
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0

    job = RealNodeJob(plane, "jobs", node.folder.parent, 1, NUM_REQUESTS)
    job.apply(job.document(node.nvme, stages=2, scheduling=pin_to(node)))
    eventually(job, lambda: job.status().get("phase") in ("Complete", "Failed"))
    assert job.row().split()[1:4] == ["Complete", "100%", f"{NUM_REQUESTS}/{NUM_REQUESTS}"]
    job.check_answers()
    print(plane.kubectl("get", "inferencejobs", "-n", "jobs"))
    print(plane.kubectl("events", "-n", "jobs", "--for", "inferencejob/quickstart"))

    print(plane.helm("uninstall", "pipemax", *system, "--wait"))
    assert "Complete" in job.row()
    job.check_answers()


def operator_log(plane: ControlPlane) -> str:
    """What is known of an operator that does not come up."""
    scope = ("-n", "pipemax-system")
    parts = [
        plane.kubectl("describe", "pods", *scope, check=False),
        plane.kubectl("logs", "deployment/pipemax", *scope, check=False),
    ]
    return "\n".join(parts)
