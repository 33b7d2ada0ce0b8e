"""One control plane a test process, one namespace a test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kit.control_plane.control_plane import ControlPlane
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


def apply_crd(plane: ControlPlane, folder: Path) -> None:
    path = folder / "crd.yaml"
    path.write_text(yaml.safe_dump(build_crd()), encoding="utf-8")
    plane.kubectl("apply", "--server-side", "-f", str(path))
    plane.kubectl("wait", "--for=condition=Established", "crd/inferencejobs.pipemax.dev")
