"""What the operator has seen itself, and how seldom it asks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from kit.inference_jobs import NOW, observe
from pipemax_operator.api_server import ConflictError, ForbiddenError
from pipemax_operator.node_client import NodeClient
from pipemax_operator.node_loss_watch import (
    MAX_GAP_SECONDS,
    MAX_NODE_AGE_SECONDS,
    LostPodWatch,
    NodeLossWatch,
)
from pipemax_operator.observed import ObservedPod

Document = dict[str, Any]
KEY = ("team-a", "reviews")


def test_seconds_count_from_the_first_look() -> None:
    watch = LostPodWatch(MAX_GAP_SECONDS)
    assert watch.look(KEY, ["a"], 100.0) == {"a": 0.0}
    assert watch.look(KEY, ["a", "b"], 130.0) == {"a": 30.0, "b": 0.0}
    assert watch.look(("team-a", "other"), ["a"], 130.0) == {"a": 0.0}


def test_who_was_back_in_between_begins_anew() -> None:
    watch = LostPodWatch(MAX_GAP_SECONDS)
    watch.look(KEY, ["a"], 100.0)
    assert watch.look(KEY, [], 110.0) == {}
    assert watch.look(KEY, ["a"], 120.0) == {"a": 0.0}


def test_a_time_without_a_look_does_not_count() -> None:
    watch = LostPodWatch(MAX_GAP_SECONDS)
    watch.look(KEY, ["a"], 100.0)
    assert watch.look(KEY, ["a"], 101.0 + MAX_GAP_SECONDS) == {"a": 0.0}


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def node(name: str, ready: str | None) -> Document:
    condition = {"type": "Ready", "status": ready, "lastTransitionTime": "2026-11-22T11:50:00Z"}
    status = {"conditions": [condition]} if ready else {}
    return {"metadata": {"name": name}, "status": status}


def pod(**metadata: str) -> Document:
    return {
        "metadata": {"name": "reviews-0-abc", "uid": "pod-uid", **metadata},
        "spec": {"nodeName": "node-1"},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }


ENDING = pod(deletionTimestamp="2026-11-22T11:55:00Z")


class Nodes:
    def __init__(self, answer: Sequence[Document] | None) -> None:
        self.answer, self.num_reads = answer, 0

    async def read(self) -> Sequence[Document] | None:
        self.num_reads += 1
        return self.answer


def test_nodes_are_read_for_a_reason_and_for_all_jobs_together() -> None:
    clock = Clock()
    nodes = Nodes([node("node-1", "Unknown"), node("node-2", "True"), node("node-3", None)])

    async def scene() -> None:
        watch = NodeLossWatch(nodes.read, monotonic=clock)
        assert await watch.read_nodes([pod()], NOW) is None
        assert nodes.num_reads == 0
        for _ in range(3):
            found = await watch.read_nodes([pod(), ENDING], NOW)
        assert found is not None
        assert [(one.name, one.is_ready) for one in found] == [
            ("node-1", False),
            ("node-2", True),
            ("node-3", False),
        ]
        assert found[0].since == NOW - timedelta(minutes=10)
        assert nodes.num_reads == 1
        clock.seconds += MAX_NODE_AGE_SECONDS + 1
        await watch.read_nodes([ENDING], NOW)
        assert nodes.num_reads == 2
        clock.seconds += MAX_NODE_AGE_SECONDS + 1
        avoiding = {"avoidedNodes": [{"node": "node-1", "message": ""}]}
        assert await watch.read_nodes([pod()], NOW, avoiding) is not None
        assert nodes.num_reads == 3
        assert await watch.read_nodes([pod()], NOW, {"avoidedNodes": []}) is None

    asyncio.run(scene())


def test_what_is_seen_is_added_and_forgotten_with_the_job() -> None:
    clock = Clock()
    lost = ObservedPod("p", "Running", uid="u", node="node-1", is_terminating=True)

    async def scene() -> None:
        watch = NodeLossWatch(Nodes([node("node-1", "Unknown")]).read, monotonic=clock)
        nodes = await watch.read_nodes([ENDING], NOW)
        watch.add(KEY, observe(None, lost), nodes, NOW)
        clock.seconds = 10.0
        assert watch.add(KEY, observe(None, lost), nodes, NOW).watched_seconds == {"u": 10.0}
        watch.forget(KEY)
        assert watch.add(KEY, observe(None, lost), nodes, NOW).watched_seconds == {"u": 0.0}

    asyncio.run(scene())


class Api:
    """Takes calls; ``refusal`` is raised by one of that method."""

    def __init__(self, refusals: dict[str, Exception] | None = None) -> None:
        self.calls: list[tuple[str, str, Any]] = []
        self._refusals = refusals or {}

    async def call(self, method: str, path: str, body: Any = None, *_: Any, **__: Any) -> Any:
        self.calls.append((method, path, body))
        if method in self._refusals:
            raise self._refusals[method]
        return {"items": [node("node-1", "True")]}


END = {"metadata": {"uid": "pod-uid", "resourceVersion": "7"}, "status": {"phase": "Failed"}}


def client(api: Any) -> NodeClient:
    return NodeClient(api)


def test_a_pod_is_ended_before_it_is_deleted() -> None:
    api = Api()
    asyncio.run(client(api).end_pod("team-a", "p", END))
    path = "/api/v1/namespaces/team-a/pods/p"
    deletion = {"gracePeriodSeconds": 0, "preconditions": {"uid": "pod-uid"}}
    assert api.calls == [("PATCH", f"{path}/status", END), ("DELETE", path, deletion)]


def test_a_pod_that_has_changed_is_left_alone() -> None:
    api = Api({"PATCH": ConflictError("the object has been modified")})

    async def scene() -> None:
        try:
            await client(api).end_pod("team-a", "p", END)
        except ConflictError:
            return
        raise AssertionError("no conflict")

    asyncio.run(scene())
    assert [method for method, _, _ in api.calls] == ["PATCH"]


def test_nodes_that_may_not_be_seen_are_unknown() -> None:
    assert asyncio.run(client(Api()).list_nodes()) == [node("node-1", "True")]
    forbidden = Api({"GET": ForbiddenError("cannot list resource nodes")})
    assert asyncio.run(client(forbidden).list_nodes()) is None
