"""Which pods are lost with their nodes, and which of them are replaced."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from kit.inference_jobs import NOW, make_job, observe
from pipemax_operator.node_loss import (
    CONFIRMATION_SECONDS,
    LostPod,
    build_end,
    find_lost_pods,
    find_replaceable,
    is_suspect,
    is_widespread,
)
from pipemax_operator.observed import Observed, ObservedJob, ObservedNode, ObservedPod

CHILD = ObservedJob("uid-2", active=1)
POD = ObservedPod(
    "reviews-0-abc",
    "Running",
    uid="pod-uid",
    resource_version="7",
    node="node-1",
    since=NOW - timedelta(hours=1),
)
ENDING = replace(POD, is_terminating=True)


def ago(seconds: float) -> Any:
    return NOW - timedelta(seconds=seconds)


def nodes(*away: str, total: int = 4, since: float = 400) -> tuple[ObservedNode, ...]:
    names = [f"node-{number}" for number in range(1, total + 1)]
    return tuple(ObservedNode(name, name not in away, ago(since)) for name in names)


def seen(pod: ObservedPod = ENDING, watched: float = 60, **more: Any) -> Observed:
    fields = {"nodes": nodes("node-1"), "watched_seconds": {pod.uid: watched}} | more
    return observe(CHILD, pod, **fields)


def replaced(observed: Observed, **spec: Any) -> list[str]:
    lost = find_lost_pods(observed, NOW)
    found = find_replaceable(make_job(**spec), observed, lost, NOW)
    return [one.pod.name for one in found]


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (ENDING, True),
        (replace(POD, unready_since=ago(5)), True),
        (replace(POD, is_ready=True), False),
        (POD, True),  # loading for an hour
        (replace(POD, since=ago(30)), False),
        (replace(POD, phase="Pending"), False),
        (replace(ENDING, phase="Pending"), True),
        (replace(ENDING, phase="Failed"), False),
        (replace(ENDING, node=""), False),
    ],
)
def test_who_gives_reason_to_look_at_nodes(pod: ObservedPod, expected: bool) -> None:
    assert is_suspect(pod, NOW) is expected


def test_the_node_tells_whether_a_pod_is_lost_and_since_when() -> None:
    assert find_lost_pods(seen(), NOW) == (LostPod(ENDING, ago(400)),)
    assert find_lost_pods(seen(nodes=nodes()), NOW) == ()
    assert find_lost_pods(seen(POD), NOW) == (LostPod(POD, ago(400)),)
    healthy = replace(POD, is_ready=True)
    assert find_lost_pods(seen(healthy), NOW) == ()


def test_a_deleted_node_is_the_garbage_collectors() -> None:
    gone = seen(nodes=nodes()[1:])
    (lost,) = find_lost_pods(gone, NOW)
    assert lost.reason == "node node-1 was deleted"
    assert replaced(gone) == []


def test_without_the_right_to_see_nodes_kubernetes_verdict_counts() -> None:
    assert find_lost_pods(seen(nodes=None), NOW) == ()
    assert find_lost_pods(seen(replace(ENDING, unready_since=ago(90)), nodes=None), NOW) == ()
    marked = seen(replace(POD, unready_since=ago(400)), nodes=None)
    assert find_lost_pods(marked, NOW)[0].since == ago(400)
    assert replaced(marked) == []
    given_up = replace(ENDING, given_up_at=ago(350))
    assert find_lost_pods(seen(given_up, nodes=None), NOW)[0].since == ago(350)
    assert replaced(seen(given_up, nodes=None)) == [POD.name]


@pytest.mark.parametrize(
    ("away_seconds", "policy", "expected"),
    [
        (299, {}, False),
        (300, {}, True),
        (300, {"policy": "Wait"}, False),
        (59, {"replaceAfter": "1m"}, False),
        (60, {"policy": "Replace", "replaceAfter": "1m"}, True),
    ],
)
def test_replaced_when_the_time_is_over(
    away_seconds: float, policy: dict[str, Any], expected: bool
) -> None:
    observed = seen(nodes=nodes("node-1", since=away_seconds))
    assert bool(replaced(observed, nodeLoss=policy)) is expected


def test_not_where_the_successor_does_not_reach_the_output() -> None:
    assert replaced(seen(), output={"uri": "hostPath:///out"}) == []
    assert replaced(seen(), output={"uri": "hostPath:///nfs", "shared": True}) == [POD.name]


def test_an_operator_that_has_just_started_waits_and_sees() -> None:
    assert replaced(seen(watched=CONFIRMATION_SECONDS - 1)) == []
    assert replaced(seen(watched=CONFIRMATION_SECONDS)) == [POD.name]
    assert replaced(seen(watched_seconds={})) == []
    assert replaced(seen(watched=2), nodeLoss={"replaceAfter": "2s"}) == [POD.name]


def test_a_suspended_job_needs_no_workers() -> None:
    observed = replace(seen(), job=replace(CHILD, suspended=True))
    assert replaced(observed) == []
    assert replaced(replace(seen(), job=None)) == []


@pytest.mark.parametrize(
    ("num_away", "total", "expected"),
    [
        (1, 4, False),
        (2, 3, False),
        (1, 1, True),
        (2, 2, True),
        (3, 6, False),
        (4, 6, True),
        (3, 5, True),
    ],
)
def test_when_most_nodes_are_away_the_network_is(num_away: int, total: int, expected: bool) -> None:
    found = nodes(*(f"node-{number}" for number in range(1, num_away + 1)), total=total)
    assert is_widespread(found) is expected
    assert replaced(seen(nodes=found)) == ([] if expected else [POD.name])


def test_unknown_nodes_are_not_widespread() -> None:
    assert not is_widespread(None)
    assert not is_widespread(())


def test_several_are_judged_each_by_its_own_node() -> None:
    other = replace(ENDING, name="reviews-1-def", uid="other", node="node-2")
    fresh = ObservedNode("node-2", False, ago(10))
    observed = observe(
        CHILD,
        ENDING,
        other,
        nodes=(nodes("node-1")[0], fresh, *nodes()[2:]),
        watched_seconds={"pod-uid": 400, "other": 400},
    )
    assert len(find_lost_pods(observed, NOW)) == 2
    assert replaced(observed) == [POD.name]


def test_the_end_names_the_pod_that_was_seen_and_counts_no_failure() -> None:
    end = build_end(LostPod(ENDING, ago(400)), NOW)
    assert end["metadata"] == {"uid": "pod-uid", "resourceVersion": "7"}
    assert end["status"]["phase"] == "Failed"
    (condition,) = end["status"]["conditions"]
    assert (condition["type"], condition["status"]) == ("DisruptionTarget", "True")
    assert "node-1 has not answered since 2026-11-22T11:53:20Z" in condition["message"]
