"""Node loss from the API server's documents to the plan."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from kit.inference_jobs import NOW, ended_pod, make_job, observe
from pipemax_operator.conditions import parse_time
from pipemax_operator.manifests.batch_job import build_batch_job
from pipemax_operator.manifests.metadata import Owner
from pipemax_operator.observation import parse_node, parse_pod
from pipemax_operator.observed import Observed, ObservedJob, ObservedNode, ObservedPod
from pipemax_operator.outcome import derive_outcome
from pipemax_operator.plan import Plan, plan
from pipemax_operator.settings import OperatorSettings

SETTINGS = OperatorSettings()
TIME = "2026-11-22T12:00:00Z"


def document(container_ready: bool, ready: str = "False", **conditions: str) -> dict[str, Any]:
    """A pod whose kubelet said ``container_ready`` last; ``conditions``: type=reason."""
    listed = [{"type": "Ready", "status": ready, "lastTransitionTime": TIME}]
    listed += [
        {"type": kind, "status": "True", "reason": reason, "lastTransitionTime": TIME}
        for kind, reason in conditions.items()
    ]
    container = {"name": "worker", "ready": container_ready, "state": {"running": {}}}
    status = {"phase": "Running", "conditions": listed, "containerStatuses": [container]}
    return {"metadata": {"name": "p", "uid": "u", "resourceVersion": "7"}, "status": status}


def test_what_the_node_controller_alone_writes() -> None:
    assert parse_pod(document(True)).unready_since == parse_time(TIME)
    assert parse_pod(document(False)).unready_since is None
    assert parse_pod(document(True, ready="True")).unready_since is None
    assert parse_pod({"metadata": {"name": "p"}}).unready_since is None


def test_who_has_asked_for_a_pods_end() -> None:
    by_taint = parse_pod(document(True, DisruptionTarget="DeletionByTaintManager"))
    assert by_taint.given_up_at == parse_time(TIME)
    drained = parse_pod(document(True, DisruptionTarget="EvictionByEvictionAPI"))
    assert drained.given_up_at is None
    assert (drained.uid, drained.resource_version) == ("u", "7")


def test_a_node_that_says_nothing_is_not_ready() -> None:
    assert not parse_node({"metadata": {"name": "new"}}).is_ready


def unreachable_seconds(**spec: Any) -> list[int | None]:
    job = build_batch_job(make_job(**spec), Owner("team-a", "uid-1"), SETTINGS)
    taints = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
    tolerations = job["spec"]["template"]["spec"]["tolerations"]
    found = [one for one in tolerations if one.get("key") in taints]
    assert all(one["effect"] == "NoExecute" for one in found)
    return [one.get("tolerationSeconds") for one in found]


def test_a_worker_that_is_cut_off_is_left_alone_until_it_is_to_be_replaced() -> None:
    assert unreachable_seconds() == [300, 300]
    assert unreachable_seconds(nodeLoss={"replaceAfter": "20s"}) == [20, 20]
    assert unreachable_seconds(nodeLoss={"policy": "Wait"}) == [None, None]
    assert unreachable_seconds(output={"uri": "hostPath:///out"}) == [None, None]


LOST = ObservedPod("reviews-0-abc", "Running", uid="u", node="node-1", is_terminating=True)
ALIVE = ObservedPod("reviews-1-def", "Running", uid="v", node="node-2", is_ready=True)


def with_lost_node(
    seconds: float, *others: ObservedPod, status: dict[str, Any] | None = None, ready: int = 0
) -> Observed:
    away = ObservedNode("node-1", False, NOW - timedelta(seconds=seconds))
    return observe(
        ObservedJob("uid-2", active=1 + len(others), ready=ready, num_indexes=2),
        LOST,
        *others,
        status=status,
        nodes=(away, ObservedNode("node-2", True)),
        watched_seconds={"u": seconds},
    )


def made(observed: Observed) -> Plan:
    return plan(make_job(parallelism={"nodes": 2}), observed, NOW, SETTINGS, "team-a")


def lost_condition(found: Plan) -> dict[str, Any]:
    assert found.status is not None
    said: dict[str, Any] = next(c for c in found.status["conditions"] if c["type"] == "NodeLost")
    return said


def test_a_lost_node_is_told_once_and_its_worker_replaced_in_time() -> None:
    early = made(with_lost_node(60, ALIVE, ready=1))
    assert early.replace == ()
    assert early.status is not None
    assert early.status["phase"] == "Running"
    assert lost_condition(early)["status"] == "True"
    assert ("NodeLost", True) in [(event.reason, event.is_warning) for event in early.events]
    again = made(with_lost_node(60, ALIVE, ready=1, status=early.status))
    assert (again.replace, again.status, again.events) == ((), None, ())
    late = made(with_lost_node(300, ALIVE, ready=1, status=early.status))
    assert [one.pod.name for one in late.replace] == ["reviews-0-abc"]
    assert lost_condition(late)["reason"] == "WorkersReplaced"
    assert [event.reason for event in late.events] == ["WorkersReplaced"]


def test_with_all_workers_lost_one_event_tells_it() -> None:
    found = made(with_lost_node(60))
    assert found.status is not None
    assert found.status["phase"] == "Pending"
    assert [event.reason for event in found.events] == ["NodeLost"]
    assert found.requeue_seconds == SETTINGS.poll_seconds


def test_nobody_is_replaced_when_all_is_done() -> None:
    done = ended_pod(0, counts={"completed": 7, "failed": 0})
    early = made(with_lost_node(60))
    found = made(with_lost_node(300, done, status=early.status))
    assert found.status is not None
    assert found.status["phase"] == "Complete"
    assert found.replace == ()
    assert lost_condition(found)["reason"] == "JobEnded"


WAITING = ObservedPod(
    "reviews-0-def",
    "Pending",
    since=NOW - timedelta(hours=2),
    waiting=("Unschedulable", "0/2 nodes are available"),
)


def test_a_pod_that_cannot_start_says_more_than_one_that_is_lost() -> None:
    found = derive_outcome(make_job(), with_lost_node(60, WAITING), NOW)
    assert found.reason == "StartDeadlineExceeded"


def test_the_successor_of_a_lost_worker_waits_for_room_without_a_deadline() -> None:
    replaced = {"type": "NodeLost", "status": "False", "reason": "WorkersReplaced", "message": ""}
    status = {"conditions": [replaced]}
    alone = replace(with_lost_node(0, status=status), pods=(WAITING,))
    found = derive_outcome(make_job(), alone, NOW)
    assert (found.phase, found.reason) == ("Pending", "Unschedulable")
