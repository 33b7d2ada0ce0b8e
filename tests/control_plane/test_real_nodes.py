"""From ``kubectl apply`` to records on disk: real control plane, operator, nodes and worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kit.control_plane.real_node_job import (
    WORKER_USER,
    Document,
    RealNodeJob,
    pin_to,
    read_metrics,
)
from kit.control_plane.required_nodes import Nodes
from kit.control_plane.running_job import (
    NUM_FILES,
    NUM_REQUESTS,
    SLOW,
    SUMMARY,
    condition,
    reaches,
    runs_with_records,
)
from kit.control_plane.running_job import eventually as wait

pytestmark = pytest.mark.xdist_group("real-nodes")


# Each of these says which code a program runs, or where it writes.
MEDDLING = ("PATH", "PYTHONHOME", "LD_PRELOAD", "LD_LIBRARY_PATH", "HOME", "TMPDIR")
STORE = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "HF_TOKEN": "token"}
SLOWEST = {**SLOW, "maxNumRequests": 1, "lookAhead": 1}


def eventually(job: RealNodeJob, found: Callable[[], Any], timeout_seconds: float = 120.0) -> Any:
    return wait(job, found, timeout_seconds)


def test_from_apply_to_records(job: RealNodeJob, nodes: Nodes) -> None:
    node = nodes["a"]
    make_secret(job, STORE | {name: "/nowhere" for name in MEDDLING})
    secret = {"secretRef": {"name": "store"}}
    document = job.document(node.nvme, stages=8, scheduling=pin_to(node), credentials=secret)
    job.apply(document | {"spec": document["spec"] | {"ttlSecondsAfterFinished": 15}})
    pod = eventually(job, lambda: [one for one in job.pods() if one["status"].get("podIP")])[0]
    assert pod["spec"]["nodeName"] == node.name
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    eventually(job, reaches(job, "Running"))
    job.note("Running")
    (variables,) = node.worker_variables()
    assert STORE.items() <= variables.items(), "what stores and hubs read"
    assert "/nowhere" not in variables.values(), "nothing else"
    eventually(job, lambda: "Preflight" in {c["type"] for c in job.status()["conditions"]})
    assert condition(job.status(), "Preflight")["status"] == "True"
    metrics, rows = watch_to_the_end(job, pod)
    job.note("Complete")
    print(*rows, sep="\n")
    assert metrics["pipemax_tokens_total"] > 0
    assert metrics["pipemax_kv_blocks"] > 0
    assert any(row.split()[1] == "Running" and row.split()[2] != "0%" for row in rows), rows
    assert rows[-1].split()[1:4] == ["Complete", "100%", SUMMARY], rows
    job.check_answers()
    assert (job.output / "manifest.json").stat().st_uid == WORKER_USER
    (kv_folder,) = node.own_nvme().glob("*/kv")
    assert (kv_folder.stat().st_uid, kv_folder.parent.stat().st_uid) == (WORKER_USER, 0)
    assert not list(kv_folder.iterdir()), "nothing is parked when all is done"
    eventually(job, lambda: "No resources" in job.row() or not job.row())
    eventually(job, lambda: not job.pods())
    job.note("gone by its TTL")
    job.check_answers()


def make_secret(job: RealNodeJob, values: dict[str, str]) -> None:
    literals = [f"--from-literal={name}={value}" for name, value in values.items()]
    job.plane.kubectl("create", "secret", "generic", "store", *literals, "-n", job.namespace)


def watch_to_the_end(job: RealNodeJob, pod: Document) -> tuple[dict[str, float], list[str]]:
    """The last metrics of the worker, and each row that ``kubectl get`` printed on the way."""
    metrics: dict[str, float] = {}
    rows: list[str] = []

    def is_over() -> bool:
        metrics.update(read_metrics(pod))
        row = job.row()
        if row and (not rows or rows[-1].split()[1:4] != row.split()[1:4]):
            rows.append(row)
        return "Complete" in row or "Failed" in row

    eventually(job, is_over, 200)
    return metrics, rows


def test_suspended_kv_is_parked_and_taken_up(job: RealNodeJob, nodes: Nodes) -> None:
    node = nodes["a"]
    job.apply(job.document(node.nvme, stages=2, scheduling=pin_to(node), engine=SLOW))
    eventually(job, runs_with_records(job, 1))
    with job.watching_exit_codes() as exit_codes:
        job.patch({"suspend": True})
        job.note("told to suspend")
        eventually(job, reaches(job, "Suspended"))
        eventually(job, lambda: not job.pods())
        eventually(job, lambda: 75 in exit_codes())
    job.note("parked")
    assert list(node.own_nvme().rglob("park.json"))
    assert job.num_records() < NUM_REQUESTS
    job.patch({"suspend": False})
    pod = eventually(job, lambda: [one for one in job.pods() if one["status"].get("podIP")])[0]
    metrics, _ = watch_to_the_end(job, pod)
    job.note("Complete")
    assert metrics['pipemax_tokens_total{kind="restored"}'] > 0
    job.check_answers()
    assert not list(node.own_nvme().glob("*/kv/*"))


def test_a_missing_input_is_told_within_a_minute(job: RealNodeJob, nodes: Nodes) -> None:
    node = nodes["a"]
    missing = {"uri": f"hostPath://{job.input}/none/*.jsonl"}
    job.apply(job.document(node.nvme, stages=2, scheduling=pin_to(node), input=missing))
    failed = eventually(job, reaches(job, "Failed"), 60)
    job.note("Failed")
    assert condition(failed, "Failed")["reason"] == "InputNotFound"


def test_a_killed_worker_and_a_lost_node(job: RealNodeJob, nodes: Nodes) -> None:
    """One test for both: each waits until the dead worker's silence is noticed."""
    kept, lost = nodes["a"], nodes["b"]
    node_loss = {"takeOverAfter": "20s"}
    job.apply(job.document(lost.nvme, stages=2, nodes=2, engine=SLOW, nodeLoss=node_loss))
    pods = eventually(job, lambda: all_running(job, 2))
    assert {pod["spec"]["nodeName"] for pod in pods} == {node.name for node in nodes.values()}
    eventually(job, runs_with_records(job, 2))
    assert kept.kill_workers() == 1
    eventually(job, lambda: any(exit_code(pod) == 137 for pod in job.pods()))
    lost.crash()
    job.note("worker killed, node lost")
    replaced = eventually(job, lambda: [pod for pod in job.pods() if is_new(pod, pods)])[0]
    job.note("worker replaced")
    assert replaced["spec"].get("nodeName", kept.name) == kept.name
    done = eventually(job, reaches(job, "Complete"), 200)
    job.note("Complete")
    assert done["progress"]["summary"] == SUMMARY
    job.check_answers()
    lost.start()
    job.note("node is back")
    eventually(job, lambda: all(is_over(pod) for pod in job.pods()))
    assert job.status()["phase"] == "Complete"
    job.check_answers()


@pytest.mark.parametrize("job", [4 * NUM_FILES], indirect=True)
def test_a_worker_of_a_lost_node_is_replaced_and_comes_back(job: RealNodeJob, nodes: Nodes) -> None:
    """The node is cut off, and its worker stands still until another one has begun, so that a fast
    machine's does not do all alone; then two of them work for one job, until the node is back."""
    node_loss = {"policy": "Replace", "replaceAfter": "3s", "takeOverAfter": "20s"}
    nvme = nodes["a"].nvme
    job.apply(job.document(nvme, stages=1, engine=SLOWEST, nodeLoss=node_loss))
    (first,) = eventually(job, lambda: all_running(job, 1))
    (lost,) = (node for node in nodes.values() if node.name == first["spec"]["nodeName"])
    eventually(job, runs_with_records(job, 1))
    (zombie,) = job.writers()
    lost.freeze()
    assert lost.freeze_workers() > 0
    job.note("node cut off")
    try:
        eventually(job, lambda: any(is_new(pod, [first]) for pod in all_running(job, 1)))
        job.note("worker replaced")
        (second,) = job.pods()
        assert second["spec"]["nodeName"] not in ("", lost.name)
        assert condition(job.status(), "NodeLost")["reason"] == "WorkersReplaced"
        eventually(job, lambda: len(job.writers()) == 2)
        job.note("the new one writes")
        num_by_zombie = job.writers()[zombie]
        lost.thaw_workers()
        eventually(job, lambda: job.writers()[zombie] > num_by_zombie)
        job.note("the old one still does")
    finally:
        lost.thaw_workers()
        lost.thaw()
    job.note("node back")
    done = eventually(job, reaches(job, "Complete"), 200)
    job.note("Complete")
    assert done["progress"]["completed"] == len(job.lines)
    job.check_answers()


def exit_code(pod: Document) -> int | None:
    for container in pod["status"].get("containerStatuses", ()):
        if ended := container["state"].get("terminated"):
            return int(ended["exitCode"])
    return None


def is_new(pod: Document, before: list[Document]) -> bool:
    return pod["metadata"]["uid"] not in {one["metadata"]["uid"] for one in before}


def is_over(pod: Document) -> bool:
    return pod["status"]["phase"] in ("Succeeded", "Failed")


def all_running(job: RealNodeJob, count: int) -> list[Document]:
    pods = [pod for pod in job.pods() if pod["status"]["phase"] == "Running"]
    return pods if len(pods) == count else []
