"""The chart's own service account may do what sweeping asks for, cluster-wide and in one namespace:
on a real API server, with a node that does as it is told.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
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

ACCESS = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
JOB: Document = {
    "apiVersion": "pipemax.dev/v1alpha1",
    "kind": "InferenceJob",
    "metadata": {"name": "reviews"},
    "spec": {
        "model": {"uri": "hostPath:///models/tiny"},
        "input": {"uri": "hostPath:///data/prompts.jsonl"},
        "output": {"uri": "s3://results/reviews"},
        "kvCache": {"host": "1Gi", "nvme": {"hostPath": "/mnt/nvme", "size": "1Gi"}},
    },
}
ALL_DONE = json.dumps({"reason": "Complete", "message": "", "counts": {"completed": 6}})


@pytest.fixture
def system(control_plane: ControlPlane) -> Iterator[str]:
    """The release's namespace, which is none of the jobs'."""
    name = f"system-{uuid.uuid4().hex[:8]}"
    control_plane.kubectl("create", "namespace", name)
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(params=["cluster-wide", "one namespace"])
def operator(
    control_plane: ControlPlane,
    namespace: str,
    system: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[OperatorProcess]:
    worker = {"pollSeconds": 0.5, "memoryOverhead": "1Gi"}
    values: Document = {"worker": worker, "rbac": {"aggregate": False}}
    if request.param == "one namespace":
        values["namespaces"] = [namespace]
    documents = render(values, system)
    access = yaml.safe_dump_all([one for one in documents if one["kind"] in ACCESS])
    control_plane.kubectl("apply", "-f", "-", stdin=access)
    token = control_plane.kubectl("create", "token", "pipemax", "-n", system).strip()
    kubeconfig = tmp_path / "operator.kubeconfig"
    write_kubeconfig(kubeconfig, control_plane.server, token, control_plane.certificate)
    container = one(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    variables = environment(container) | {
        "PIPEMAX_METRICS_PORT": "0",
        "PIPEMAX_SCANNING": "disabled",
    }
    process = OperatorProcess(
        control_plane, tmp_path, namespace, environment=variables, kubeconfig=kubeconfig
    )
    process.start()
    try:
        yield process
    finally:
        process.stop()
        control_plane.kubectl("delete", "-f", "-", stdin=access)


@pytest.fixture
def node(control_plane: ControlPlane) -> Iterator[StandInNode]:
    node = StandInNode(control_plane, f"stand-in-{uuid.uuid4().hex[:8]}")
    node.join()
    yield node
    node.leave()


def test_a_jobs_folder_is_recorded_and_swept(
    control_plane: ControlPlane,
    namespace: str,
    system: str,
    operator: OperatorProcess,
    node: StandInNode,
) -> None:
    def records() -> list[Document]:
        label = ("-l", "pipemax.dev/nvme-record=pipemax")
        found: list[Document] = control_plane.get("configmaps", "-n", system, *label)["items"]
        return found

    def pod_in(scope: str) -> Callable[[], str | None]:
        def find() -> str | None:
            pods = control_plane.get("pods", "-n", scope)["items"]
            here = [pod for pod in pods if pod["spec"].get("nodeName") == node.name]
            return here[0]["metadata"]["name"] if here else None

        return find

    control_plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(JOB))
    pod = eventually(pod_in(namespace))
    uid = control_plane.get("ij", "reviews", "-n", namespace)["metadata"]["uid"]
    eventually(lambda: records() and node.name in records()[0]["data"]["record.json"])
    assert records()[0]["metadata"]["name"] == f"pipemax-nvme-{uid}"
    node.run_pod(namespace, pod)
    node.end_pod(namespace, pod, 0, ALL_DONE)

    sweep = eventually(pod_in(system))
    container = control_plane.get("pod", sweep, "-n", system)["spec"]["containers"][0]
    assert container["args"][:2] == ["host-folders", "sweep"]
    assert uid in container["args"]
    node.run_pod(system, sweep)
    node.end_pod(system, sweep, 0, json.dumps({"removed": [uid]}))
    eventually(lambda: not records())
    eventually(lambda: not control_plane.get("jobs", "-n", system)["items"])
    said = operator.log.read_text(encoding="utf-8")
    assert "forbidden" not in said.lower(), said[-3000:]
    assert "Traceback" not in said, said[-3000:]
