"""A node vanishes: one job's worker is replaced elsewhere, another one's waits for the node.

The operator runs with the chart's own service account: what it may not do there, it may not here.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit.chart import environment, one, render
from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.files import write_kubeconfig
from kit.control_plane.operator_process import OperatorProcess
from kit.control_plane.stand_in_node import StandInNode
from kit.control_plane.waiting import eventually

Document = dict[str, Any]

ALL_DONE = json.dumps({"reason": "Complete", "message": "", "counts": {"completed": 6}})
FAILURES = "batch.kubernetes.io/job-index-failure-count"
ACCESS = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
WORKER = {"pollSeconds": 0.5, "memoryOverhead": "1Gi"}


class Scene:
    """A namespace with its own operator, and two nodes of which one will vanish."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane, self.namespace = plane, namespace
        self.lost = StandInNode(plane, f"lost-{uuid.uuid4().hex[:6]}", gpus=16)
        self.spare = StandInNode(plane, f"spare-{uuid.uuid4().hex[:6]}")
        self.nodes: list[StandInNode] = []

    def join(self, node: StandInNode) -> None:
        node.join()
        self.nodes.append(node)

    def apply(self, name: str, **node_loss: str) -> None:
        spec = {
            "model": {"uri": "hostPath:///models/tiny"},
            "input": {"uri": "hostPath:///data/prompts.jsonl"},
            "output": {"uri": "s3://results/reviews"},
            "kvCache": {"host": "1Gi"},
            "nodeLoss": node_loss,
        }
        kinds = {"apiVersion": "pipemax.dev/v1alpha1", "kind": "InferenceJob"}
        document = {**kinds, "metadata": {"name": name}, "spec": spec}
        self.plane.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=yaml.safe_dump(document))

    def pods(self, job: str, node: StandInNode) -> list[Document]:
        selector = ("-l", f"pipemax.dev/inferencejob={job}")
        pods: list[Document] = self.plane.get("pods", "-n", self.namespace, *selector)["items"]
        return [pod for pod in pods if pod["spec"].get("nodeName") == node.name]

    def run(self, job: str, node: StandInNode) -> str:
        """The pod of ``job`` that is scheduled there, once it runs."""
        pod = str(eventually(lambda: self.pods(job, node))[0]["metadata"]["name"])
        node.run_pod(self.namespace, pod)
        eventually(lambda: self.status(job).get("phase") == "Running")
        return pod

    def status(self, job: str) -> Document:
        found: Document = self.plane.get("ij", job, "-n", self.namespace).get("status", {})
        return found

    def node_lost(self, job: str) -> tuple[str, str]:
        """Status and reason of that condition."""
        for condition in self.status(job)["conditions"]:
            if condition["type"] == "NodeLost":
                return condition["status"], condition["reason"]
        return "", ""

    def events(self, job: str) -> str:
        return self.plane.kubectl("events", "-n", self.namespace, "--for", f"inferencejob/{job}")


@pytest.fixture(params=["ClusterRole", "Role"])
def scene(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Scene]:
    values: Document = {"worker": WORKER, "rbac": {"aggregate": False}}
    if request.param == "Role":
        values["namespaces"] = [namespace]
    documents = render(values, namespace)
    access = yaml.safe_dump_all([one for one in documents if one["kind"] in ACCESS])
    control_plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=access)
    token = control_plane.kubectl("create", "token", "pipemax", "-n", namespace).strip()
    kubeconfig = tmp_path / "operator.kubeconfig"
    write_kubeconfig(kubeconfig, control_plane.server, token, control_plane.certificate)
    container = one(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    alone = {"PIPEMAX_METRICS_PORT": "0", "PIPEMAX_SCANNING": "disabled"}
    variables = environment(container) | alone
    operator = OperatorProcess(
        control_plane, tmp_path, namespace, environment=variables, kubeconfig=kubeconfig
    )
    scene = Scene(control_plane, namespace)
    scene.join(scene.lost)
    operator.start()
    try:
        yield scene
    finally:
        operator.stop()
        print(operator.log.read_text(encoding="utf-8")[-3000:])
        for node in scene.nodes:
            node.leave()
        control_plane.kubectl("delete", "-n", namespace, "-f", "-", stdin=access)


def test_a_vanished_node(scene: Scene) -> None:
    namespace, lost, spare = scene.namespace, scene.lost, scene.spare
    scene.apply("replaced", policy="Replace", replaceAfter="6s")
    scene.apply("kept", policy="Wait")
    first, kept = scene.run("replaced", lost), scene.run("kept", lost)
    scene.join(spare)
    lost.vanish()

    eventually(lambda: scene.node_lost("kept") == ("True", "WaitingForNode"))
    eventually(lambda: scene.status("kept")["phase"] == "Pending")
    second = scene.run("replaced", spare)
    assert second != first
    assert not scene.pods("replaced", lost), "the lost pod is gone without its kubelet"
    (pod,) = scene.pods("replaced", spare)
    assert pod["metadata"]["annotations"][FAILURES] == "0", "a lost node is no failure of the job's"
    eventually(lambda: scene.node_lost("replaced") == ("False", "WorkersReplaced"))
    assert "WorkersReplaced" in scene.events("replaced")
    spare.end_pod(namespace, second, 0, ALL_DONE)
    eventually(lambda: scene.status("replaced")["phase"] == "Complete")

    assert scene.node_lost("kept") == ("True", "WaitingForNode")
    (pod,) = scene.pods("kept", lost)
    assert "deletionTimestamp" not in pod["metadata"]
    lost.come_back()
    assert scene.run("kept", lost) == kept
    eventually(lambda: scene.node_lost("kept") == ("False", "NodesAnswer"))
    lost.end_pod(namespace, kept, 0, ALL_DONE)
    eventually(lambda: scene.status("kept")["phase"] == "Complete")
    assert scene.events("kept").count("Warning") == 1
