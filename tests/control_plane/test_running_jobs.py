"""What becomes of a running job on real nodes: evicted, deleted, out of time, frozen."""

from __future__ import annotations

import pytest
from kit.control_plane.real_node import RealNode
from kit.control_plane.real_node_job import (
    Document,
    RealNodeJob,
    pin_to,
    read_metrics,
)
from kit.control_plane.required_nodes import Nodes
from kit.control_plane.running_job import (
    LINES_PER_FILE,
    NUM_FILES,
    NUM_REQUESTS,
    SLOW,
    SUMMARY,
    condition,
    eventually,
    evict,
    exit_code,
    pod_index,
    reaches,
    running_pods,
    runs_with_records,
)

pytestmark = pytest.mark.xdist_group("real-nodes")

STOPPED = 75


def test_an_evicted_pods_kv_is_adopted_by_another_index(job: RealNodeJob, nodes: Nodes) -> None:
    """The first is evicted where nothing else may start, so that it waits; when the second is, the
    first gets its node, and goes on with what the second has parked there."""
    node, closed = nodes["a"], nodes["b"]
    job.apply(job.document(node.nvme, stages=2, nodes=2, engine=SLOW))
    first, second = by_node(eventually(job, lambda: both_at_work(job)), closed, node)
    job.plane.kubectl("cordon", closed.name)
    try:
        with job.watching_exit_codes() as exit_codes:
            node.freeze_workers()  # else it may have done all before it is evicted too
            evict(job, first)
            eventually(job, lambda: exit_codes() == {STOPPED})
            eventually(job, lambda: [pod for pod in job.pods() if is_unschedulable(pod)])
            job.note("the first is evicted and waits")
            node.thaw_workers()
            evict(job, second)
            (third,) = eventually(
                job, lambda: [one for one in running_pods(job, 1) if is_new(one, first, second)]
            )
        assert third["spec"]["nodeName"] == node.name
        assert pod_index(third) == pod_index(first) != pod_index(second)
        job.note("and runs where the second was")
        restored = 'pipemax_tokens_total{kind="restored"}'
        eventually(job, lambda: read_metrics(third).get(restored, 0) > 0)
    finally:
        job.plane.kubectl("uncordon", closed.name)
    done = eventually(job, reaches(job, "Complete"))
    job.note("Complete")
    assert done["progress"]["summary"] == SUMMARY
    job.check_answers()


def both_at_work(job: RealNodeJob) -> list[Document]:
    """Both pods, once each has requests in hand and some are done."""
    pods = running_pods(job, 2) if job.num_records() else []
    in_hand = [read_metrics(pod).get("pipemax_requests_in_flight", 0) for pod in pods]
    return pods if all(in_hand) else []


def by_node(pods: list[Document], *nodes: RealNode) -> list[Document]:
    """The pods in the order of these nodes."""
    found = {pod["spec"]["nodeName"]: pod for pod in pods}
    return [found[node.name] for node in nodes]


def is_unschedulable(pod: Document) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(one.get("reason") == "Unschedulable" for one in conditions)


def is_new(pod: Document, *others: Document) -> bool:
    return pod["metadata"]["uid"] not in {one["metadata"]["uid"] for one in others}


def test_a_deadline_and_a_deletion_keep_what_is_done(job: RealNodeJob, nodes: Nodes) -> None:
    """Two jobs, one on each node: one runs out of time, the other is deleted while it runs."""
    late, deleted = job, second_job(job)
    for one, node in ((late, nodes["a"]), (deleted, nodes["b"])):
        one.apply(one.document(node.nvme, stages=2, scheduling=pin_to(node), engine=SLOW))
    for one in (late, deleted):
        eventually(one, runs_with_records(one, 2))
    eventually(late, lambda: late.status().get("progress", {}).get("percent"))
    with job.watching_exit_codes() as exit_codes:
        late.patch({"deadline": "1s"})
        job.plane.kubectl("delete", "ij", deleted.name, "-n", job.namespace)
        failed = eventually(late, reaches(late, "Failed"))
        eventually(job, lambda: not job.pods())
        eventually(job, lambda: exit_codes() == {STOPPED})
    job.note("pods gone")
    assert condition(failed, "Failed")["reason"] == "DeadlineExceeded"
    assert condition(failed, "Complete")["status"] == "False"
    row = late.row().split()
    assert row[:2] == [late.name, "Failed"]
    assert 0 < int(row[2].rstrip("%")) < 100
    assert not remains(deleted)
    for one in (late, deleted):
        check_part_of_the_records(one)


def second_job(job: RealNodeJob) -> RealNodeJob:
    """Another one in the same namespace, with folders of its own."""
    host = job.folder / "second"
    host.mkdir()
    return RealNodeJob(
        job.plane, job.namespace, host, NUM_FILES, LINES_PER_FILE, name=f"{job.name}-2"
    )


def remains(job: RealNodeJob) -> list[str]:
    """Everything in the cluster that names this job."""
    kinds = "inferencejobs,jobs,pods,configmaps,services,secrets,persistentvolumeclaims"
    found = job.plane.get(kinds, "-n", job.namespace)["items"]
    return [one["metadata"]["name"] for one in found if job.name in one["metadata"]["name"]]


def check_part_of_the_records(job: RealNodeJob) -> None:
    """Some requests have a record, no request has two, and all of them are right."""
    found = job.num_records()
    assert 0 < found < NUM_REQUESTS
    tally = job.tally()
    assert tally.right.total() == found, tally.wrong


def test_a_model_that_is_not_there(job: RealNodeJob, nodes: Nodes) -> None:
    node, empty = nodes["a"], job.folder / "no-model"
    empty.mkdir()
    model = {"uri": f"hostPath://{empty}", "name": "tiny"}
    job.apply(job.document(node.nvme, stages=2, scheduling=pin_to(node), model=model))
    failed = condition(eventually(job, reaches(job, "Failed")), "Failed")
    assert failed["reason"] == "ModelNotFound"
    assert "config.json" in failed["message"]
    assert not job.num_records()


def test_a_frozen_worker_comes_back_as_a_zombie(job: RealNodeJob, nodes: Nodes) -> None:
    """The other one takes over what it had in hand; what it does after that changes nothing."""
    loss = {"takeOverAfter": "10s"}
    job.apply(job.document(nodes["b"].nvme, stages=2, nodes=2, engine=SLOW, nodeLoss=loss))
    eventually(job, lambda: both_at_work(job))
    frozen = nodes["b"]
    assert frozen.freeze_workers()
    try:
        job.note("frozen")
        done = eventually(job, reaches(job, "Complete"))
        job.note("Complete")
        assert done["progress"]["summary"] == SUMMARY
        job.check_answers()
    finally:
        frozen.thaw_workers()
    eventually(job, lambda: [exit_code(pod) for pod in job.pods()] == [0, 0])
    job.note("the zombie has ended")
    assert job.status()["phase"] == "Complete"
    job.check_answers()
