"""One control plane a test process, one namespace a test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.operator_process import running_operator
from kit.control_plane.real_node_job import RealNodeJob, worker_settings
from kit.control_plane.required_nodes import Nodes, required_nodes
from kit.control_plane.running_job import LINES_PER_FILE, NUM_FILES
from pipemax_operator.crd import build_crd


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A running control plane that knows InferenceJobs."""
    plane = ControlPlane(tmp_path_factory.mktemp("control-plane"))
    plane.start()
    try:
        apply_crd(plane, tmp_path_factory.mktemp("crd"))
        yield plane
    finally:
        plane.stop()


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace of the test's own."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    control_plane.kubectl("create", "namespace", name)
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def nodes(control_plane: ControlPlane) -> Iterator[Nodes]:
    """Two real nodes with 8 GPUs each."""
    with required_nodes(control_plane, "a", "b") as found:
        yield found


@pytest.fixture
def operator(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[None]:
    with running_operator(control_plane, tmp_path, namespace, worker_settings()):
        yield


@pytest.fixture
def job(
    control_plane: ControlPlane,
    nodes: Nodes,
    operator: None,
    namespace: str,
    request: pytest.FixtureRequest,
) -> Iterator[RealNodeJob]:
    """A job's folders; its pods are gone before the next test wants the nodes. A parameter: how
    many files it has."""
    host, num_files = nodes["a"].folder.parent, getattr(request, "param", NUM_FILES)
    job = RealNodeJob(control_plane, namespace, host, num_files, LINES_PER_FILE)
    yield job
    control_plane.kubectl("delete", "ij", "--all", "-n", namespace, "--ignore-not-found")
    control_plane.kubectl("delete", "pods", "--all", "-n", namespace, "--force")


def apply_crd(plane: ControlPlane, folder: Path) -> None:
    path = folder / "crd.yaml"
    path.write_text(yaml.safe_dump(build_crd()), encoding="utf-8")
    plane.kubectl("apply", "--server-side", "-f", str(path))
    plane.wait_for_kinds("crd/inferencejobs.pipemax.dev")
