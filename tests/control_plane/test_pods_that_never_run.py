"""Pods that a real kubelet cannot run: its own words in the status, and the end of waiting.

All jobs are applied at once, on one node: each waits for its own fault.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.operator_process import running_operator
from kit.control_plane.real_node import RealNode
from kit.control_plane.real_node_job import ROOT, worker_settings
from kit.control_plane.required_nodes import required_nodes

pytestmark = pytest.mark.xdist_group("real-nodes")

Document = dict[str, Any]

# A worker's limit is host KV, shared memory and the overhead: with this little, only a job with a
# large host tier lives long enough to say a word.
SETTINGS = {
    "gpus_for_cpu_jobs": 0,
    "shared_memory_bytes": 8 * 2**20,
    "memory_overhead_bytes": 24 * 2**20,
}
TOLD_SECONDS = 70.0
START_DEADLINE_SECONDS = 70


class Jobs:
    """Jobs by name, in one namespace. ``folder`` is seen by the node."""

    def __init__(self, plane: ControlPlane, namespace: str, folder: Path) -> None:
        self.plane, self.namespace, self.folder = plane, namespace, folder
        folder.mkdir()
        (folder / "prompts.jsonl").write_text("{}\n", encoding="utf-8")
        (folder / "a-file").touch()
        self.applied_seconds = time.monotonic()

    def apply(self, name: str, **spec: Any) -> None:
        document: Document = {
            "apiVersion": "pipemax.dev/v1alpha1",
            "kind": "InferenceJob",
            "metadata": {"name": name},
            "spec": {
                "model": {"uri": f"hostPath://{ROOT / 'models' / 'tiny'}"},
                "input": {"uri": f"hostPath://{self.folder}/prompts.jsonl"},
                "output": {"uri": f"hostPath://{self.folder}/{name}"},
                "parallelism": {"stagesPerNode": 1},
                "engine": {"device": "cpu"},
                "kvCache": {"host": "8Mi"},
                "startDeadline": f"{START_DEADLINE_SECONDS}s",
                **spec,
            },
        }
        self.plane.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=yaml.safe_dump(document))

    def status(self, name: str) -> Document:
        status: Document = self.plane.get("ij", name, "-n", self.namespace).get("status", {})
        return status

    def condition(
        self, name: str, kind: str, status: str, reason: str, until_seconds: float
    ) -> Document:
        """Once it is there, at the latest so long after all jobs were applied."""
        while time.monotonic() < self.applied_seconds + until_seconds:
            for one in self.status(name).get("conditions", ()):
                if (one["type"], one["status"], one["reason"]) == (kind, status, reason):
                    print(f"{time.monotonic() - self.applied_seconds:5.1f} s  {name}: {reason}")
                    return dict(one)
            time.sleep(0.2)
        scope = ("-n", self.namespace)
        known = self.plane.kubectl("events", *scope) + self.plane.kubectl("get", "pods", *scope)
        raise AssertionError(f"not in time: {self.status(name)}\n{known}")


@pytest.fixture(scope="module")
def node(control_plane: ControlPlane) -> Iterator[RealNode]:
    with required_nodes(control_plane, "a") as found:
        yield found["a"]


@pytest.fixture(scope="module")
def jobs(
    control_plane: ControlPlane, node: RealNode, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Jobs]:
    namespace = f"test-{uuid.uuid4().hex[:10]}"
    control_plane.kubectl("create", "namespace", namespace)
    folder = tmp_path_factory.mktemp("operator")
    with running_operator(control_plane, folder, namespace, worker_settings(**SETTINGS)):
        jobs = Jobs(control_plane, namespace, node.folder.parent / f"jobs-{namespace}")
        nvme = {"hostPath": f"{jobs.folder}/a-file", "size": "8Mi"}
        jobs.apply("no-image", image="registry.invalid/none:1")
        jobs.apply("no-folder", kvCache={"host": "8Mi", "nvme": nvme})
        jobs.apply("no-secret", credentials={"secretRef": {"name": "none"}})
        jobs.apply("out-of-memory")
        jobs.apply("unfit-node", kvCache={"host": "1Gi"}, engine=LARGE_DEVICE_TIER)
        yield jobs
        control_plane.kubectl("delete", "ij", "--all", "-n", namespace)
        control_plane.kubectl("delete", "pods", "--all", "-n", namespace, "--force")
    control_plane.kubectl("delete", "namespace", namespace, "--wait=false")


LARGE_DEVICE_TIER = {"device": "cpu", "deviceKvCache": "2Gi"}
STUCK = [
    ("no-image", "ErrImageNeverPull", "registry.invalid/none:1"),
    ("no-folder", "FailedMount", "a-file is not a directory"),
    ("no-secret", "FailedMount", 'secret "none" not found'),
]


@pytest.mark.parametrize(("name", "reason", "words"), STUCK)
def test_a_kubelets_own_words(jobs: Jobs, name: str, reason: str, words: str) -> None:
    told = jobs.condition(name, "Progressing", "False", reason, TOLD_SECONDS)
    assert words in told["message"]


def test_a_worker_that_is_killed_for_its_memory(jobs: Jobs) -> None:
    told = jobs.condition("out-of-memory", "Progressing", "False", "OOMKilled", TOLD_SECONDS)
    assert "worker.memoryOverhead" in told["message"], "what helps"
    (failing, *_) = jobs.status("out-of-memory")["shards"]["failing"]
    assert failing["reason"] == "OOMKilled"


def test_a_worker_that_finds_its_node_unfit(jobs: Jobs) -> None:
    told = jobs.condition("unfit-node", "Preflight", "False", "PreflightFailed", TOLD_SECONDS)
    assert "the container's limit is 1.0 GiB" in told["message"]
    assert "lower kvCache.host" in told["message"]
    jobs.condition("unfit-node", "Progressing", "False", "PreflightFailed", TOLD_SECONDS)


@pytest.mark.parametrize("name", [name for name, _, _ in STUCK] + ["out-of-memory", "unfit-node"])
def test_waiting_ends_at_the_start_deadline(jobs: Jobs, name: str) -> None:
    reason = "StartDeadlineExceeded"
    failed = jobs.condition(name, "Failed", "True", reason, START_DEADLINE_SECONDS + 60)
    assert "cannot run" in failed["message"] or "has failed" in failed["message"]
