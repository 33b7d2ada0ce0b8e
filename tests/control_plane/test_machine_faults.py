"""Machines that cannot run a job: what its status says, and where its pods go then.

On a real control plane, with nodes that do as they are told.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit.control_plane import waiting
from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.operator_process import running_operator
from kit.control_plane.stand_in_node import StandInNode
from kit.control_plane.telling_worker import telling_worker
from kit.inference_jobs import make_document
from kit.ports import free_port
from pipemax_operator import names
from pipemax_operator.avoided_nodes import CONDITION as GPU_LOST
from pipemax_operator.exit_codes import GPU_LOST as GPU_LOST_CODE
from pipemax_operator.exit_codes import PREFLIGHT_FAILED, STOPPED
from pipemax_operator.preflight_condition import CONDITION as PREFLIGHT

pytestmark = pytest.mark.xdist_group("machine-faults")

Document = dict[str, Any]

SETTINGS = {
    "poll_seconds": 0.5,
    "memory_overhead_bytes": 2**30,
    "allowed_host_paths": ["/models", "/data", "/out"],
}
LABEL = "pipemax.dev/test-nodes"


class Scene:
    """Jobs in a namespace, and nodes that no other test's pods get."""

    def __init__(self, plane: ControlPlane, namespace: str, port: int) -> None:
        self.plane, self.namespace, self.port = plane, namespace, port
        self.key = uuid.uuid4().hex[:8]
        self.log = Path()

    @contextlib.contextmanager
    def node(self, name: str) -> Iterator[StandInNode]:
        node = StandInNode(self.plane, f"{name}-{self.key}")
        node.join()
        self.plane.kubectl("label", "node", node.name, f"{LABEL}={self.key}")
        try:
            yield node
        finally:
            node.leave()

    def apply(self, name: str, **spec: Any) -> None:
        """A job that asks for 4 GPUs of one of these nodes."""
        usual = {
            "input": {"uri": "hostPath:///data/prompts.jsonl"},
            "output": {"uri": "hostPath:///out"},
            "parallelism": {"stagesPerNode": 4},
            "scheduling": {"nodeSelector": {LABEL: self.key}},
        }
        document = make_document(**usual | spec)
        document["metadata"]["name"] = name
        self.plane.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=yaml.safe_dump(document))

    def status(self, job: str) -> Document:
        status: Document = self.plane.get("ij", job, "-n", self.namespace).get("status", {})
        return status

    def change_status(self, job: str, avoided: list[Document]) -> None:
        edit = ("patch", "ij", job, "-n", self.namespace, "--subresource=status", "--type=merge")
        self.plane.kubectl(*edit, "-p", json.dumps({"status": {"avoidedNodes": avoided}}))

    def condition(self, job: str, kind: str, reason: str) -> Document:
        """Once it is there."""

        def find() -> Document | None:
            said = self.status(job).get("conditions", ())
            return next((c for c in said if (c["type"], c["reason"]) == (kind, reason)), None)

        found: Document = self.eventually(job, find)
        return found

    def pods(self, job: str) -> list[Document]:
        selector = ("-l", f"{names.JOB_LABEL}={job}")
        found: list[Document] = self.plane.get("pods", "-n", self.namespace, *selector)["items"]
        return found

    def pending_pod(self, job: str, *without: str) -> Document:
        """A pod other than those that a node has been found for, once there is one."""

        def find() -> Document | None:
            for pod in self.pods(job):
                is_new = pod["metadata"]["name"] not in without
                if is_new and pod["spec"].get("nodeName") and pod["status"]["phase"] == "Pending":
                    return pod
            return None

        found: Document = self.eventually(job, find)
        return found

    def unschedulable_pod(self, job: str) -> str:
        def find() -> str | None:
            for pod in self.pods(job):
                said = pod["status"].get("conditions", ())
                if any(one.get("reason") == "Unschedulable" for one in said):
                    return str(pod["metadata"]["name"])
            return None

        return str(self.eventually(job, find))

    def eventually(self, job: str, found: Callable[[], Any], timeout_seconds: float = 120.0) -> Any:
        return waiting.eventually(
            found, timeout_seconds, lambda: json.dumps(self.status(job), indent=1)
        )


def is_ending(pod: Document) -> bool:
    return "deletionTimestamp" in pod["metadata"]


# What no node can take: job -> spec, and the scheduler's own words.
STUCK: dict[str, tuple[Document, str]] = {
    "claim-missing": (
        {"output": {"uri": "pvc://none/out"}},
        'persistentvolumeclaim "none" not found',
    ),
    "memory-too-small": ({"kvCache": {"host": "4Ti"}}, "Insufficient memory"),
    "too-few-gpus": ({"parallelism": {"stagesPerNode": 16}}, "Insufficient nvidia.com/gpu"),
}


@pytest.fixture(scope="module")
def scene(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One operator and two nodes, and on them what will be stuck: its deadlines pass meanwhile."""
    namespace = f"test-{uuid.uuid4().hex[:10]}"
    control_plane.kubectl("create", "namespace", namespace)
    scene = Scene(control_plane, namespace, free_port())
    settings = SETTINGS | {"metrics_port": scene.port}
    environment = {"PIPEMAX_WORKER_SETTINGS": json.dumps(settings)}
    folder = tmp_path_factory.mktemp("operator")
    with (
        running_operator(control_plane, folder, namespace, environment) as operator,
        scene.node("a"),
        scene.node("b"),
    ):
        scene.log = operator.log
        for job, (spec, _) in STUCK.items():
            scene.apply(job, startDeadline="60s", **spec)
        yield scene
    control_plane.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.mark.parametrize(("job", "words"), [(job, words) for job, (_, words) in STUCK.items()])
def test_what_no_node_can_take_is_told(scene: Scene, job: str, words: str) -> None:
    told = scene.condition(job, "Progressing", "Unschedulable")
    assert told["status"] == "False"
    assert words in told["message"], "the scheduler's own words"


def test_a_job_that_names_a_folder_that_is_not_open_fails_without_pods(scene: Scene) -> None:
    scene.apply("too-curious", input={"uri": "hostPath:///etc/kubernetes/*.jsonl"})
    failed = scene.condition("too-curious", "Failed", "NotAllowed")
    assert failed["status"] == "True"
    assert "folder /etc/kubernetes is not open" in failed["message"]
    assert scene.status("too-curious")["phase"] == "Failed"
    assert not scene.plane.get("jobs,pods", "-n", scene.namespace, "-l", OF_CURIOUS)["items"]


OF_CURIOUS = f"{names.JOB_LABEL}=too-curious"
LOST_WORDS = "GPU GPU-8f3c22aa-0001 (stage 3) is lost: GPU is lost. Reboot the system"


def test_a_node_with_a_lost_gpu_is_avoided(scene: Scene) -> None:
    scene.apply("lost-gpu")
    pod = scene.pending_pod("lost-gpu")
    first, ill = pod["metadata"]["name"], pod["spec"]["nodeName"]
    assert "schedulingGates" not in pod["spec"], "nothing to avoid: let go at once"
    assert "matchFields" not in json.dumps(pod["spec"]["affinity"])
    node = StandInNode(scene.plane, ill)
    node.run_pod(scene.namespace, first)
    said = json.dumps({"reason": "GpuLost", "message": LOST_WORDS})
    node.end_pod(scene.namespace, first, GPU_LOST_CODE, said)
    told = scene.condition("lost-gpu", GPU_LOST, "GpuLost")
    assert told["status"] == "True"
    assert f"node {ill} is avoided" in told["message"]
    assert "GPU-8f3c22aa-0001" in told["message"]
    second = scene.pending_pod("lost-gpu", first)
    assert second["spec"]["nodeName"] != ill
    # The pod that told of it may go: what was learned stays.
    scene.plane.kubectl("delete", "pod", first, "-n", scene.namespace)
    well = StandInNode(scene.plane, second["spec"]["nodeName"])
    well.run_pod(scene.namespace, second["metadata"]["name"])
    well.end_pod(scene.namespace, second["metadata"]["name"], STOPPED)
    third = scene.pending_pod("lost-gpu", first, second["metadata"]["name"])
    assert third["spec"]["nodeName"] != ill
    fields = third["spec"]["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["nodeSelectorTerms"]
    assert all(term["matchFields"][0]["values"] == [ill] for term in fields)
    assert [one["node"] for one in scene.status("lost-gpu")["avoidedNodes"]] == [ill]
    events = scene.plane.kubectl("events", "-n", scene.namespace, "--for", "ij/lost-gpu")
    assert "GpuLost" in events


def test_a_repaired_node_is_used_again(scene: Scene) -> None:
    """A pod finds no node, for all of them have lost a GPU; one is started anew, and a pod that may
    go there takes its place. The list is as an older operator wrote it."""
    scene.apply("repaired", suspend=True)
    scene.condition("repaired", "Suspended", "SuspendedByUser")
    ill = [f"{name}-{scene.key}" for name in ("a", "b")]
    scene.change_status("repaired", [{"node": node, "message": LOST_WORDS} for node in ill])
    resumed = ("patch", "ij", "repaired", "-n", scene.namespace, "--type=merge")
    scene.plane.kubectl(*resumed, "-p", '{"spec": {"suspend": false}}')
    told = scene.condition("repaired", GPU_LOST, "GpuLost")["message"]
    assert all(f"node {node} is avoided: {LOST_WORDS}" in told for node in ill)
    first = scene.unschedulable_pod("repaired")

    def avoided() -> Document:
        listed = scene.status("repaired")["avoidedNodes"]
        return {one["node"]: one.get("bootID") for one in listed}

    scene.eventually("repaired", lambda: all(avoided().values()))
    StandInNode(scene.plane, ill[0]).boot()
    second = scene.pending_pod("repaired", first)
    assert second["spec"]["nodeName"] == ill[0]
    assert list(avoided()) == [ill[1]]
    events = scene.plane.kubectl("events", "-n", scene.namespace, "--for", "ij/repaired")
    assert f"node {ill[0]} is used again: it was started anew" in events
    said = f"{scene.namespace}/repaired: NodeUsedAgain: node {ill[0]} is used again"
    assert said in scene.log.read_text(encoding="utf-8")
    # As an administrator does who knows better.
    scene.change_status("repaired", [])
    assert scene.condition("repaired", GPU_LOST, "NodeUsedAgain")["status"] == "False"
    assert avoided() == {}
    child = scene.plane.get("job", "repaired", "-n", scene.namespace)["status"]
    assert not child.get("failed"), "a pod that made room is no failure"


def test_a_failed_preflight_is_a_condition_and_no_end(scene: Scene) -> None:
    scene.apply("small-disk")
    pod = scene.pending_pod("small-disk")
    first, node = pod["metadata"]["name"], StandInNode(scene.plane, pod["spec"]["nodeName"])
    words = "nvme: /mnt has 1.0 GiB free; free the disk or lower kvCache.nvme.size"
    said = json.dumps({"reason": "PreflightFailed", "message": words})
    node.run_pod(scene.namespace, first)
    node.end_pod(scene.namespace, first, PREFLIGHT_FAILED, said)
    told = scene.condition("small-disk", PREFLIGHT, "PreflightFailed")
    assert told["status"] == "False"
    assert "lower kvCache.nvme.size" in told["message"]
    progressing = scene.condition("small-disk", "Progressing", "PreflightFailed")
    assert progressing["status"] == "False"
    assert node.name in progressing["message"]
    second = scene.pending_pod("small-disk", first)
    StandInNode(scene.plane, second["spec"]["nodeName"]).run_pod(
        scene.namespace, second["metadata"]["name"]
    )
    assert scene.condition("small-disk", "Progressing", "WorkersRunning")["status"] == "True"


def test_nodes_that_do_not_share_the_output_end_the_job(scene: Scene, tmp_path: Path) -> None:
    """Two nodes, each with its own disk under the same path: a worker alone goes on."""
    shared = {"output": {"uri": "hostPath:///out", "shared": True}}
    with scene.node("c"), scene.node("d"):
        scene.apply("two-disks", **shared, parallelism={"stagesPerNode": 8, "nodes": 2})
        check_end_of_unshared(scene, tmp_path)


def check_end_of_unshared(scene: Scene, tmp_path: Path) -> None:
    first = scene.pending_pod("two-disks")["metadata"]["name"]
    second = scene.pending_pod("two-disks", first)["metadata"]["name"]
    with (
        telling_worker(tmp_path / "disk-a", "127.0.0.2", scene.port),
        telling_worker(tmp_path / "disk-b", "127.0.0.3", scene.port),
    ):
        for number, pod in enumerate((first, second), start=2):
            node = next(p for p in scene.pods("two-disks") if p["metadata"]["name"] == pod)
            here = StandInNode(scene.plane, node["spec"]["nodeName"])
            here.run_pod(scene.namespace, pod, f"127.0.0.{number}")
            if number == 2:
                told = scene.condition("two-disks", "Progressing", "WorkersRunning")
                assert told["status"] == "True"
        failed = scene.condition("two-disks", "Failed", "StoreNotShared")
    assert failed["status"] == "True"
    assert "do not see the same output" in failed["message"]
    # Their kubelets would end them now; these have none.
    scene.eventually("two-disks", lambda: all(is_ending(pod) for pod in scene.pods("two-disks")))


@pytest.mark.parametrize(("job", "words"), [(job, words) for job, (_, words) in STUCK.items()])
def test_what_no_node_can_take_fails_at_the_start_deadline(
    scene: Scene, job: str, words: str
) -> None:
    failed = scene.condition(job, "Failed", "StartDeadlineExceeded")
    assert failed["status"] == "True"
    assert words in failed["message"]
    scene.eventually(job, lambda: not scene.pods(job))
