"""Workers that fail for good, beside others that do not: the job's end is the ledger's word."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
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
    "metadata": {"name": "reviews"},
    "spec": {
        "model": {"uri": "hostPath:///models/tiny"},
        "input": {"uri": "hostPath:///data/prompts.jsonl"},
        "output": {"uri": "hostPath:///results/reviews", "shared": True},
        "parallelism": {"nodes": 2},
        "kvCache": {"host": "1Gi"},
    },
}
SETTINGS = {"poll_seconds": 0.5, "memory_overhead_bytes": 2**30, "max_retries": 0}
LACKING = json.dumps({"reason": "ModelNotFound", "message": "/models/tiny: no such folder"})
BUG = json.dumps({"reason": "InternalError", "message": "block 7 is held by nobody"})


@pytest.fixture
def node(control_plane: ControlPlane) -> Iterator[StandInNode]:
    """Room for two workers."""
    node = StandInNode(control_plane, f"stand-in-{uuid.uuid4().hex[:8]}", gpus=16)
    node.join()
    yield node
    node.leave()


@pytest.fixture
def pods(
    control_plane: ControlPlane, namespace: str, node: StandInNode, tmp_path: Path
) -> Iterator[list[str]]:
    """Both workers of a job, running; by index."""
    environment = {"PIPEMAX_WORKER_SETTINGS": json.dumps(SETTINGS)}
    with running_operator(control_plane, tmp_path, namespace, environment):
        stdin = yaml.safe_dump(JOB)
        control_plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=stdin)

        def scheduled() -> list[Document]:
            found = control_plane.get("pods", "-n", namespace)["items"]
            return found if len([p for p in found if p["spec"].get("nodeName")]) == 2 else []

        names = sorted(pod["metadata"]["name"] for pod in eventually(scheduled))
        for name in names:
            node.run_pod(namespace, name)
        says(control_plane, namespace, "2 of 2 workers run")
        yield names


def status_of(plane: ControlPlane, namespace: str) -> Document:
    found: Document = plane.get("inferencejob", "reviews", "-n", namespace).get("status", {})
    return found


def condition(status: Document, kind: str) -> Document:
    return next(c for c in status["conditions"] if c["type"] == kind)


def says(plane: ControlPlane, namespace: str, words: str) -> Document:
    """The status, once a condition's message holds these words."""

    def check() -> Document | None:
        status = status_of(plane, namespace)
        messages = [one["message"] for one in status.get("conditions", ())]
        return status if any(words in message for message in messages) else None

    found: Document = eventually(check)
    return found


@pytest.mark.parametrize(
    ("exit_code", "last_words", "reason"),
    [(70, BUG, "InternalError"), (66, LACKING, "ModelNotFound")],
    ids=["a bug", "no model"],
)
def test_the_others_finish_the_job(
    control_plane: ControlPlane,
    namespace: str,
    node: StandInNode,
    pods: list[str],
    exit_code: int,
    last_words: str,
    reason: str,
) -> None:
    """A bug that shows on one node, tried as often as it may be; a node without the model."""
    node.end_pod(namespace, pods[1], exit_code, last_words)
    status = says(control_plane, namespace, "1 of 2 workers run")
    assert status["phase"] == "Running"
    eventually(lambda: status_of(control_plane, namespace)["shards"]["failed"] == 1)
    (failing,) = status_of(control_plane, namespace)["shards"]["failing"]
    assert (failing["index"], failing["reason"]) == (1, reason)
    assert failing["message"] == json.loads(last_words)["message"]

    said = {"reason": "Complete", "message": "", "counts": {"completed": 616, "failed": 0}}
    node.end_pod(namespace, pods[0], 0, json.dumps(said))
    done = says(control_plane, namespace, "616 requests succeeded")
    assert done["phase"] == "Complete"
    assert done["progress"]["summary"] == "616/616"
    assert condition(done, "Failed")["status"] == "False"

    def child_has_failed() -> bool:
        child = control_plane.get("job", "reviews", "-n", namespace)
        found = child["status"].get("conditions", ())
        return any(c["type"] == "Failed" and c["reason"] == "FailedIndexes" for c in found)

    eventually(child_has_failed)
    assert status_of(control_plane, namespace)["phase"] == "Complete", (
        "it is the records that count"
    )


def test_nobody_is_left(
    control_plane: ControlPlane, namespace: str, node: StandInNode, pods: list[str]
) -> None:
    for pod in pods:
        node.end_pod(namespace, pod, 70, BUG)
    eventually(lambda: status_of(control_plane, namespace)["phase"] == "Failed")
    status = status_of(control_plane, namespace)
    assert condition(status, "Failed")["reason"] == "InternalError"
    assert "held by nobody" in condition(status, "Failed")["message"]
    assert condition(status, "Complete")["status"] == "False"
    assert status["shards"]["failed"] == 2
