"""The operator on a real control plane, with nodes that do as they are told."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit.control_plane.control_plane import ControlPlane
from kit.control_plane.operator_process import running_operator
from kit.control_plane.stand_in_node import StandInNode
from kit.control_plane.waiting import eventually

Document = dict[str, Any]

JOB: Document = {
    "apiVersion": "pipemax.dev/v1alpha1",
    "kind": "InferenceJob",
    "metadata": {"name": "reviews", "labels": {"team": "a"}},
    "spec": {
        "model": {"uri": "hostPath:///models/tiny"},
        "input": {"uri": "hostPath:///data/prompts.jsonl"},
        "output": {"uri": "hostPath:///results/reviews"},
        "kvCache": {"host": "1Gi", "nvme": {"hostPath": "/mnt/nvme", "size": "1Gi"}},
    },
}
SETTINGS = {"poll_seconds": 0.5, "memory_overhead_bytes": 2**30}


@pytest.fixture
def node(control_plane: ControlPlane) -> Iterator[StandInNode]:
    # Of its own name: pods that an earlier test has left must not count against its GPUs.
    node = StandInNode(control_plane, f"stand-in-{uuid.uuid4().hex[:8]}")
    node.join()
    yield node
    node.leave()


@pytest.fixture
def operator(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[None]:
    environment = {"PIPEMAX_WORKER_SETTINGS": json.dumps(SETTINGS)}
    with running_operator(control_plane, tmp_path, namespace, environment):
        yield


def apply(plane: ControlPlane, namespace: str, document: Document) -> None:
    plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(document))


def status(plane: ControlPlane, namespace: str) -> Document:
    found: Document = plane.get("inferencejob", "reviews", "-n", namespace).get("status", {})
    return found


def has_phase(plane: ControlPlane, namespace: str, phase: str) -> Callable[[], Any]:
    def check() -> Any:
        found = status(plane, namespace)
        return found if found.get("phase") == phase else None

    return check


def scheduled_pod(plane: ControlPlane, namespace: str) -> str:
    def find() -> str | None:
        pods = plane.get("pods", "-n", namespace)["items"]
        alive = [p for p in pods if p["spec"].get("nodeName") and "phase" in p["status"]]
        pending = [p for p in alive if p["status"]["phase"] == "Pending"]
        return pending[0]["metadata"]["name"] if pending else None

    return str(eventually(find))


def condition(found: Document, kind: str) -> Document:
    return next(c for c in found["conditions"] if c["type"] == kind)


@pytest.mark.usefixtures("operator")
def test_from_apply_to_complete(
    control_plane: ControlPlane, namespace: str, node: StandInNode
) -> None:
    apply(control_plane, namespace, JOB)
    pod = scheduled_pod(control_plane, namespace)
    found = control_plane.get("pod", pod, "-n", namespace)
    assert found["spec"]["nodeName"] == node.name
    assert found["metadata"]["labels"]["team"] == "a"
    container = found["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert found["spec"]["terminationGracePeriodSeconds"] == 66
    assert found["spec"].get("serviceAccountName", "default") == "default"
    assert found["spec"]["automountServiceAccountToken"] is False
    node.run_pod(namespace, pod)
    running = eventually(has_phase(control_plane, namespace, "Running"))
    assert condition(running, "Progressing")["status"] == "True"
    said = {"reason": "Complete", "message": "", "counts": {"completed": 616, "failed": 0}}
    node.end_pod(namespace, pod, 0, json.dumps(said))
    done = eventually(has_phase(control_plane, namespace, "Complete"))
    assert done["progress"]["summary"] == "616/616"
    assert condition(done, "Complete")["reason"] == "AllRecordsWritten"
    row = control_plane.kubectl("get", "ij", "-n", namespace, "--no-headers").split()
    assert row[:4] == ["reviews", "Complete", "100%", "616/616"]
    stored = control_plane.get("inferencejob", "reviews", "-n", namespace)
    assert not stored["metadata"].get("finalizers")
    events = control_plane.kubectl("events", "-n", namespace, "--for", "inferencejob/reviews")
    assert "AllRecordsWritten" in events


@pytest.mark.usefixtures("operator")
def test_a_permanent_error_ends_the_job_with_the_workers_words(
    control_plane: ControlPlane, namespace: str, node: StandInNode
) -> None:
    apply(control_plane, namespace, JOB)
    pod = scheduled_pod(control_plane, namespace)
    node.run_pod(namespace, pod)
    said = {"reason": "InputNotFound", "message": "/data/prompts.jsonl: no such file"}
    node.end_pod(namespace, pod, 66, json.dumps(said))
    failed = eventually(has_phase(control_plane, namespace, "Failed"))
    assert condition(failed, "Failed")["reason"] == "InputNotFound"
    assert "no such file" in condition(failed, "Failed")["message"]
    assert failed["shards"]["failing"][0]["reason"] == "InputNotFound"


@pytest.mark.usefixtures("operator")
def test_a_stopped_worker_is_replaced(
    control_plane: ControlPlane, namespace: str, node: StandInNode
) -> None:
    apply(control_plane, namespace, JOB)
    first = scheduled_pod(control_plane, namespace)
    node.run_pod(namespace, first)
    node.end_pod(namespace, first, 75, json.dumps({"reason": "Stopped", "message": "SIGTERM"}))
    second = scheduled_pod(control_plane, namespace)
    assert second != first
    node.run_pod(namespace, second)
    eventually(has_phase(control_plane, namespace, "Running"))


@pytest.mark.usefixtures("operator")
def test_suspend_and_go_on(control_plane: ControlPlane, namespace: str, node: StandInNode) -> None:
    apply(control_plane, namespace, JOB)
    node.run_pod(namespace, scheduled_pod(control_plane, namespace))
    eventually(has_phase(control_plane, namespace, "Running"))
    patch = ("patch", "ij", "reviews", "-n", namespace, "--type=merge", "-p")
    control_plane.kubectl(*patch, '{"spec": {"suspend": true}}')
    suspended = eventually(has_phase(control_plane, namespace, "Suspended"))
    assert condition(suspended, "Suspended")["reason"] == "SuspendedByUser"
    control_plane.kubectl("delete", "pods", "-n", namespace, "--all", "--force")
    control_plane.kubectl(*patch, '{"spec": {"suspend": false}}')
    node.run_pod(namespace, scheduled_pod(control_plane, namespace))
    running = eventually(has_phase(control_plane, namespace, "Running"))
    assert condition(running, "Suspended")["status"] == "False"


@pytest.mark.usefixtures("operator")
def test_nodes_come_and_go_while_it_runs(
    control_plane: ControlPlane, namespace: str, node: StandInNode
) -> None:
    output = {"uri": "hostPath:///nfs/reviews", "shared": True}
    apply(control_plane, namespace, {**JOB, "spec": {**JOB["spec"], "output": output}})
    first = scheduled_pod(control_plane, namespace)
    node.run_pod(namespace, first)

    def has_indexes(number: int) -> bool:
        """The child Job, the job file of pods to come, and the pods."""
        spec = control_plane.get("job", "reviews", "-n", namespace)["spec"]
        file = control_plane.get("configmap", "reviews", "-n", namespace)["data"]["job.yaml"]
        told = yaml.safe_load(file)["spec"].get("parallelism", {}).get("nodes", 1)
        pods = control_plane.get("pods", "-n", namespace)["items"]
        return {spec["completions"], spec["parallelism"], told, len(pods)} == {number}

    patch = ("patch", "ij", "reviews", "-n", namespace, "--type=merge", "-p")
    for number in (3, 1):
        control_plane.kubectl(*patch, json.dumps({"spec": {"parallelism": {"nodes": number}}}))
        eventually(lambda number=number: has_indexes(number))
    node.end_pod(namespace, first, 0, json.dumps({"counts": {"completed": 616}}))
    eventually(has_phase(control_plane, namespace, "Complete"))


@pytest.mark.usefixtures("operator")
def test_what_others_made_under_its_name_is_left_to_them(
    control_plane: ControlPlane, namespace: str, node: StandInNode
) -> None:
    """First somebody's ConfigMap, then one of a job of the same name that was deleted."""
    config_map = ("configmap", "reviews", "-n", namespace)
    control_plane.kubectl("create", *config_map, "--from-literal=their=words")
    before = control_plane.get(*config_map)
    apply(control_plane, namespace, JOB)

    def told() -> Any:
        found = status(control_plane, namespace).get("conditions", ())
        wanted = ("Progressing", "NameTaken")
        return next((c for c in found if (c["type"], c["reason"]) == wanted), None)

    said = eventually(told)
    assert f"ConfigMap {namespace}/reviews was not made for this InferenceJob" in said["message"]
    assert control_plane.get(*config_map) == before
    assert not control_plane.get("jobs", "-n", namespace)["items"]
    control_plane.kubectl("delete", *config_map)
    node.run_pod(namespace, scheduled_pod(control_plane, namespace))
    eventually(has_phase(control_plane, namespace, "Running"))

    own = control_plane.get(*config_map)
    hold = ("patch", *config_map, "--type=merge", "-p")
    control_plane.kubectl(*hold, '{"metadata": {"finalizers": ["example.com/hold"]}}')
    control_plane.kubectl("delete", "ij", "reviews", "-n", namespace)
    eventually(lambda: "deletionTimestamp" in control_plane.get(*config_map)["metadata"])
    control_plane.kubectl("delete", "pods", "-n", namespace, "--all", "--force")
    apply(control_plane, namespace, {**JOB, "spec": {**JOB["spec"], "deadline": "1h"}})
    time.sleep(3)
    assert status(control_plane, namespace) == {}, "for a while it is no news"
    assert control_plane.get(*config_map)["data"] == own["data"]
    control_plane.kubectl(*hold, '{"metadata": {"finalizers": null}}')
    node.run_pod(namespace, scheduled_pod(control_plane, namespace))
    eventually(has_phase(control_plane, namespace, "Running"))
    anew = control_plane.get(*config_map)
    assert anew["metadata"]["uid"] != own["metadata"]["uid"]
    assert "deadline" in anew["data"]["job.yaml"]


@pytest.mark.usefixtures("operator")
def test_a_pod_that_no_node_can_take_says_so(control_plane: ControlPlane, namespace: str) -> None:
    apply(control_plane, namespace, JOB)

    def stuck() -> Any:
        found = status(control_plane, namespace)
        reasons = [c for c in found.get("conditions", ()) if c["reason"] == "Unschedulable"]
        return reasons[0] if reasons else None

    said = eventually(stuck)
    assert "nodes are available" in said["message"] or "no nodes available" in said["message"]
    assert condition(status(control_plane, namespace), "Progressing")["status"] == "False"


@pytest.mark.usefixtures("operator")
def test_the_end_has_a_time_to_live(
    control_plane: ControlPlane, namespace: str, node: StandInNode
) -> None:
    document = {**JOB, "spec": {**JOB["spec"], "ttlSecondsAfterFinished": 2}}
    apply(control_plane, namespace, document)
    pod = scheduled_pod(control_plane, namespace)
    node.run_pod(namespace, pod)
    node.end_pod(namespace, pod, 0)
    eventually(
        lambda: "No resources" in control_plane.kubectl("get", "ij", "-n", namespace, check=False)
    )
    eventually(lambda: not control_plane.get("jobs", "-n", namespace)["items"])
