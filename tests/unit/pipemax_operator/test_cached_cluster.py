"""Reads from memory; writes that teach it; a fresh look after a conflict."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from kit.fake_api_server import FakeApiServer
from pipemax_operator import names
from pipemax_operator.api_server import ConflictError, NotLeadingError
from pipemax_operator.cached_cluster import CachedCluster
from pipemax_operator.object_cache import ObjectCache

Document = dict[str, Any]

JOB = "/apis/pipemax.dev/v1alpha1/namespaces/a/inferencejobs/reviews"
CHILD = "/apis/batch/v1/namespaces/a/jobs/reviews"
POD = "/api/v1/namespaces/a/pods/reviews-{}"


def metadata(uid: str) -> Document:
    labels = {names.JOB_LABEL: "reviews"}
    return {"namespace": "a", "name": "reviews", "uid": uid, "labels": labels}


def play(scene: Callable[[CachedCluster, FakeApiServer, ObjectCache], Awaitable[None]]) -> None:
    async def run() -> None:
        api, cache = FakeApiServer(), ObjectCache()
        api.put(JOB, {"kind": names.KIND, "metadata": metadata("u1")})
        cluster = CachedCluster(api, cache)  # type: ignore[arg-type]
        try:
            await scene(cluster, api, cache)
        finally:
            await cluster.close()

    asyncio.run(run())


def test_reads_ask_nobody_and_writes_are_remembered() -> None:
    async def scene(cluster: CachedCluster, api: FakeApiServer, cache: ObjectCache) -> None:
        assert await cluster.get_inference_job("a", "reviews") is None
        assert await cluster.get_batch_job("a", "reviews") is None
        assert await cluster.list_pods("a", "reviews") == []
        assert api.calls == []
        await cluster.make_child({"kind": "Job", "metadata": metadata("c1")})
        child = await cluster.get_batch_job("a", "reviews")
        assert child is not None
        assert child["metadata"]["resourceVersion"] == "2"
        assert [method for method, _ in api.calls] == ["POST"]

    play(scene)


def test_a_write_from_an_old_reading_is_refused_and_a_fresh_look_mends_it() -> None:
    async def scene(cluster: CachedCluster, api: FakeApiServer, cache: ObjectCache) -> None:
        await cluster.refresh("a", "reviews")
        old = await cluster.get_inference_job("a", "reviews")
        assert old is not None
        version = old["metadata"]["resourceVersion"]
        api.put(JOB, {"kind": names.KIND, "metadata": metadata("u1"), "spec": {"suspend": True}})
        with pytest.raises(ConflictError):
            await cluster.write_status("a", "reviews", {"phase": "Running"}, version)
        await cluster.refresh("a", "reviews")
        fresh = await cluster.get_inference_job("a", "reviews")
        assert fresh is not None
        assert fresh["spec"] == {"suspend": True}
        version = fresh["metadata"]["resourceVersion"]
        await cluster.write_status("a", "reviews", {"phase": "Suspended"}, version)

    play(scene)


def test_a_fresh_look_forgets_what_is_gone() -> None:
    async def scene(cluster: CachedCluster, api: FakeApiServer, cache: ObjectCache) -> None:
        for number in (0, 1):
            pod = {**metadata(f"p{number}"), "name": f"reviews-{number}"}
            api.put(POD.format(number), {"kind": "Pod", "metadata": pod})
        api.put(CHILD, {"kind": "Job", "metadata": metadata("c1")})
        await cluster.refresh("a", "reviews")
        assert len(await cluster.list_pods("a", "reviews")) == 2
        for path in (POD.format(0), CHILD):
            del api.objects[path]
        await cluster.refresh("a", "reviews")
        assert [p["metadata"]["uid"] for p in await cluster.list_pods("a", "reviews")] == ["p1"]
        assert await cluster.get_batch_job("a", "reviews") is None

    play(scene)


def test_an_event_that_was_posted_before_is_no_error() -> None:
    async def scene(cluster: CachedCluster, api: FakeApiServer, cache: ObjectCache) -> None:
        event = {"kind": "Event", "metadata": {"namespace": "a", "name": "reviews.1"}}
        await cluster.post_event(event)
        await cluster.post_event(event)
        assert len(api.objects) == 2

    play(scene)


def test_nothing_is_written_by_who_does_not_lead() -> None:
    async def scene(cluster: CachedCluster, api: FakeApiServer, cache: ObjectCache) -> None:
        def fence() -> float:
            raise NotLeadingError("two leads")

        api.fence = fence
        with pytest.raises(NotLeadingError):
            await cluster.write_status("a", "reviews", {"phase": "Running"})
        assert "status" not in api.objects[JOB]

    play(scene)
