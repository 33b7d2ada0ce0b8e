"""Documents of the API server become values."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pipemax_operator.observation import (
    count_indexes,
    find_deadline,
    observe,
    parse_batch_job,
    parse_node,
    parse_pod,
)


@pytest.mark.parametrize(("text", "count"), [("", 0), ("3", 1), ("1,3-5,7", 5), ("0-9", 10)])
def test_index_lists(text: str, count: int) -> None:
    assert count_indexes(text) == count


def test_a_new_child_has_no_status_yet() -> None:
    job = parse_batch_job({"metadata": {"uid": "u"}, "spec": {"suspend": True}})
    assert (job.suspended, job.active, job.conditions) == (True, 0, ())


def test_the_deadline_counts_from_the_childs_start() -> None:
    child = {"metadata": {"uid": "u"}, "spec": {}, "status": {"startTime": "2026-11-22T12:00:00Z"}}
    assert find_deadline(child, 90) == datetime(2026, 11, 22, 12, 1, 30, tzinfo=UTC)
    assert find_deadline(child, None) is None
    assert find_deadline({**child, "status": {}}, 90) is None
    assert find_deadline(None, 90) is None


def pod(status: dict[str, Any]) -> dict[str, Any]:
    annotations = {"batch.kubernetes.io/job-completion-index": "3"}
    metadata = {"name": "reviews-3-x", "annotations": annotations}
    return {"metadata": metadata, "spec": {"nodeName": "node-1"}, "status": status}


def ended(message: str, **more: Any) -> dict[str, Any]:
    terminated = {"exitCode": 66, "reason": "Error", "message": message, **more}
    return pod({"phase": "Failed", "containerStatuses": [{"state": {"terminated": terminated}}]})


def test_a_workers_termination_message() -> None:
    said = {"reason": "InputNotFound", "message": "no such file", "counts": {"completed": 2}}
    found = parse_pod(ended(json.dumps(said), finishedAt="2026-11-22T12:00:00Z"))
    assert (found.index, found.node) == (3, "node-1")
    assert found.termination is not None
    assert found.termination.reason == "InputNotFound"
    assert found.termination.counts == {"completed": 2}
    assert found.termination.finished_at is not None


@pytest.mark.parametrize("message", ["", "killed", "[1]", '{"reason": null}'])
def test_termination_messages_of_others(message: str) -> None:
    found = parse_pod(ended(message)).termination
    assert found is not None
    assert found.exit_code == 66
    assert found.counts == {}


def test_why_a_pod_waits() -> None:
    waiting = {"reason": "ErrImageNeverPull", "message": "image is not present"}
    container = {"state": {"waiting": waiting}}
    unschedulable = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/2 nodes",
    }
    assert parse_pod(pod({"containerStatuses": [container]})).waiting == (
        "ErrImageNeverPull",
        "image is not present",
    )
    assert parse_pod(pod({"initContainerStatuses": [container]})).waiting is not None
    assert parse_pod(pod({"conditions": [unschedulable]})).waiting == ("Unschedulable", "0/2 nodes")
    creating = {"state": {"waiting": {"reason": "ContainerCreating"}}}
    assert parse_pod(pod({"containerStatuses": [creating]})).waiting is None


def test_what_a_node_shows_of_its_boot_and_its_gpus() -> None:
    amounts = {"cpu": "64", "memory": "512Gi", "hugepages-2Mi": "0", "nvidia.com/gpu": "8"}
    document = {
        "metadata": {"name": "node-1"},
        "status": {
            "nodeInfo": {"bootID": "boot-1"},
            "capacity": amounts,
            "allocatable": {**amounts, "nvidia.com/gpu": "7", "odd/amount": "1k"},
        },
    }
    node = parse_node(document)
    assert (node.is_ready, node.boot_id) == (False, "boot-1")
    assert node.capacity == {"nvidia.com/gpu": 8}
    assert node.allocatable == {"nvidia.com/gpu": 7}
    assert parse_node({"metadata": {"name": "new"}}).boot_id == ""


def test_which_resource_stands_for_a_gpu() -> None:
    metadata = {"generation": 1, "creationTimestamp": "2026-11-22T12:00:00Z", "uid": "u"}
    document: dict[str, Any] = {"metadata": metadata}
    assert observe(document, None, (), {}).gpu_resource == "nvidia.com/gpu"
    document["spec"] = {"scheduling": {"gpuResourceName": "amd.com/gpu"}}
    assert observe(document, None, (), {}).gpu_resource == "amd.com/gpu"
