"""The operator put together, on an API server in memory: from an event to writes, and to an end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from kit.fake_api_server import FakeApiServer
from kit.inference_jobs import make_document
from kit.turns import settle, until
from pipemax_operator import names
from pipemax_operator.api_server import ForbiddenError
from pipemax_operator.process_settings import ProcessSettings
from pipemax_operator.service import OperatorService
from pipemax_operator.settings import OperatorSettings

Document = dict[str, Any]

JOB = "/apis/pipemax.dev/v1alpha1/namespaces/a/inferencejobs/reviews"
CHILD = "/apis/batch/v1/namespaces/a/jobs/reviews"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/ops/leases/pipemax"
ALONE = ProcessSettings()
ELECTED = ProcessSettings(lease="ops/pipemax", identity="pod-a", lease_seconds=3)


class ClosableApi(FakeApiServer):
    """Also refuses one path, as RBAC does."""

    forbidden = ""

    async def close(self) -> None:
        return

    async def call(self, method: str, path: str, *more: Any, **named: Any) -> Document | None:
        if self.forbidden and self.forbidden in path:
            raise ForbiddenError(f"cannot {method} {path}")
        answer = await super().call(method, path, *more, **named)
        self.count("verb", "resource", 200)  # type: ignore[attr-defined]
        return answer

    def writes(self) -> list[str]:
        return [f"{m} {p}" for m, p in self.calls if m != "GET" and "/leases" not in p]


def make_job(uid: str = "u1", **spec: Any) -> Document:
    document = make_document(**spec)
    times = {"creationTimestamp": "2026-11-22T12:00:00Z", "generation": 1}
    document["metadata"] |= {"namespace": "a", "uid": uid, **times}
    return document


def play(
    scene: Callable[[OperatorService, ClosableApi], Awaitable[None]],
    settings: ProcessSettings = ALONE,
) -> ClosableApi:
    async def run() -> ClosableApi:
        api = ClosableApi()
        service = OperatorService(api, settings, OperatorSettings())  # type: ignore[arg-type]
        try:
            await service.start()
            await scene(service, api)
        finally:
            await service.close()
        return api

    return asyncio.run(asyncio.wait_for(run(), 120))


def test_from_an_event_to_children_event_and_status_without_a_read() -> None:
    async def scene(service: OperatorService, api: ClosableApi) -> None:
        await until(lambda: service.vitals().has_listed)
        await until(lambda: service.requeue.idle_seconds() > 0)
        reads = [call for call in api.calls if call[0] == "GET"]
        service.changed("ADDED", api.put(JOB, make_job()), names.PLURAL)
        await until(lambda: "status" in api.objects[JOB])
        writes = [one.rpartition("/")[0] for one in api.writes()]
        root = "/api/v1/namespaces/a"
        assert writes[0] == f"PATCH {root}/configmaps"
        assert writes[1] == f"PATCH {CHILD.rpartition('/')[0]}"
        assert writes[2] == f"POST {root}"  # an event, before the status that makes it old news
        assert api.writes()[3] == f"PATCH {JOB}/status"
        assert [call for call in api.calls if call[0] == "GET"] == reads

    play(scene)


def test_what_it_wrote_itself_is_no_news_to_it() -> None:
    async def scene(service: OperatorService, api: ClosableApi) -> None:
        await until(lambda: service.requeue.idle_seconds() > 0)
        service.changed("ADDED", api.put(JOB, make_job()), names.PLURAL)
        await until(lambda: "status" in api.objects[JOB])
        await settle()
        before = service.metrics.registry.get_sample_value("pipemax_reconcile_total")
        service.changed("MODIFIED", api.objects[JOB], names.PLURAL)
        await settle()
        assert service.metrics.registry.get_sample_value("pipemax_reconcile_total") == before

    play(scene)


def test_a_child_of_a_namesake_that_was_deleted_is_left_alone() -> None:
    async def scene(service: OperatorService, api: ClosableApi) -> None:
        labels = {names.JOB_LABEL: "reviews"}
        owners = [{"uid": "its-predecessor"}]
        metadata = {"namespace": "a", "name": "reviews", "uid": "c1", "labels": labels}
        child = {"kind": "Job", "metadata": {**metadata, "ownerReferences": owners}, "spec": {}}
        condition = {"type": "Complete", "status": "True"}
        child["status"] = {"succeeded": 1, "conditions": [condition]}
        api.put(CHILD, child)
        api.put(JOB, make_job())
        await until(lambda: service.vitals().has_listed)
        await settle()
        assert api.writes() == []
        gone = api.objects.pop(CHILD)
        service.changed("DELETED", gone, "jobs")
        await until(lambda: api.objects[JOB].get("status", {}).get("phase") == "Pending")

    play(scene)


def test_a_right_that_lacks_stands_in_the_status_until_it_is_given() -> None:
    def conditions(api: ClosableApi) -> dict[str, str]:
        found = api.objects[JOB].get("status", {}).get("conditions", [])
        return {one["type"]: one["reason"] for one in found}

    async def scene(service: OperatorService, api: ClosableApi) -> None:
        api.forbidden = "configmaps"
        api.put(JOB, make_job())
        await until(lambda: conditions(api).get("Progressing") == "Forbidden")
        events = [one for one in api.objects.values() if one.get("reason") == "Forbidden"]
        assert "cannot PATCH /api/v1/namespaces/a/configmaps/reviews" in events[0]["message"]
        api.forbidden = ""
        await until(lambda: conditions(api).get("Progressing") == "Creating")

    play(scene)


def test_lists_that_are_refused_are_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(service: OperatorService, api: ClosableApi) -> None:
        api.forbidden = "pods"
        await until(lambda: service.vitals().last_error)
        assert not service.vitals().has_listed
        api.forbidden = ""
        await until(lambda: service.vitals().has_listed)
        assert service.vitals().last_error == ""

    play(scene)
    assert "a right lacks" in caplog.text


def test_who_follows_knows_all_and_writes_nothing_until_the_lease_is_left() -> None:
    other = {"holderIdentity": "pod-b", "leaseDurationSeconds": 3600}

    async def scene(service: OperatorService, api: ClosableApi) -> None:
        api.put(LEASE, {"kind": "Lease", "metadata": {"name": "pipemax"}, "spec": other})
        await until(lambda: service.vitals().has_listed)
        service.changed("ADDED", api.put(JOB, make_job()), names.PLURAL)
        await settle()
        assert api.writes() == []
        assert service.cache.jobs() == [("a", "reviews")]
        left = {**api.objects[LEASE], "spec": {**other, "holderIdentity": ""}}
        api.put(LEASE, left)
        await until(lambda: "status" in api.objects[JOB])

    api = play(scene, ELECTED)
    assert api.objects[LEASE]["spec"]["holderIdentity"] == ""  # it ended in order
