"""What the user is told of lost nodes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from kit.inference_jobs import NOW, make_job, observe
from pipemax_operator.conditions import Condition
from pipemax_operator.node_loss import LostPod
from pipemax_operator.node_loss_condition import derive_condition, describe, was_replaced
from pipemax_operator.observed import ObservedJob, ObservedNode, ObservedPod

CHILD = ObservedJob("uid-2", active=2)
TIME = "2026-11-22T11:55:00Z"


def lost(number: int = 0) -> LostPod:
    pod = ObservedPod(f"reviews-{number}-abc", "Running", uid=str(number), node=f"node-{number}")
    return LostPod(pod, NOW - timedelta(minutes=5))


def status(value: str, reason: str = "ReplacementPending") -> dict[str, Any]:
    return {"conditions": [{"type": "NodeLost", "status": value, "reason": reason, "message": "x"}]}


def said(
    *left: LostPod,
    replaced: tuple[LostPod, ...] = (),
    before: dict[str, Any] | None = None,
    is_final: bool = False,
    nodes: tuple[ObservedNode, ...] | None = None,
    child: ObservedJob = CHILD,
    **spec: Any,
) -> Condition | None:
    observed = observe(child, status=before, nodes=nodes)
    return derive_condition(make_job(**spec), observed, left + replaced, replaced, is_final)


@pytest.mark.parametrize(
    ("more", "reason", "words"),
    [
        ({}, "ReplacementPending", "replaced when the node has been away for 5m"),
        ({"nodeLoss": {"replaceAfter": 90}}, "ReplacementPending", "away for 1m30s"),
        ({"nodeLoss": {"policy": "Wait"}}, "WaitingForNode", "(spec.nodeLoss.policy)"),
        ({"output": {"uri": "/out"}}, "WaitingForNode", "(the output is on that node)"),
        (
            {"nodes": (ObservedNode("node-0", False), ObservedNode("node-1", False))},
            "ClusterUnreachable",
            "nothing is replaced while most nodes do not answer",
        ),
        ({"child": replace(CHILD, suspended=True)}, "JobSuspended", "while the job is suspended"),
    ],
)
def test_a_lost_node_and_what_will_become_of_its_work(
    more: dict[str, Any], reason: str, words: str
) -> None:
    found = said(lost(), **more)
    assert found is not None
    assert (found.status, found.reason) == (True, reason)
    assert f"pod reviews-0-abc is lost: node node-0 has not answered since {TIME}" in (
        found.message
    )
    assert words in found.message


def test_nothing_is_said_before_a_node_is_lost() -> None:
    assert said() is None
    assert said(before=status("False", "WorkersReplaced")) is None
    assert said(lost(), is_final=True) is None


def test_a_replacement_is_told() -> None:
    found = said(replaced=(lost(),))
    assert found is not None
    assert (found.status, found.reason) == (False, "WorkersReplaced")
    assert found.message.endswith("another one takes its place")


def test_one_that_is_left_counts_for_more_than_one_that_is_replaced() -> None:
    found = said(lost(1), replaced=(lost(0),))
    assert found is not None
    assert found.status
    assert "node-1" in found.message
    assert "node-0" not in found.message


def test_the_end_of_it() -> None:
    back = said(before=status("True"))
    assert back is not None
    assert (back.status, back.reason) == (False, "NodesAnswer")
    ended = said(lost(), before=status("True"), is_final=True)
    assert ended is not None
    assert (ended.status, ended.reason) == (False, "JobEnded")
    assert "goes when the node is back" in ended.message


def test_many_are_told_by_the_first_ones() -> None:
    text = describe([lost(number) for number in range(7)])
    assert text.count("is lost") == 3
    assert text.endswith("and 4 more")


def test_what_was_replaced_is_remembered() -> None:
    assert was_replaced(status("False", "WorkersReplaced"))
    assert not was_replaced(status("True"))
    assert not was_replaced({})
