"""The operator put together, on an API server in memory: from an event to writes, and to an end."""

from __future__ import annotations

import asyncio
import json
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
FILE = "/api/v1/namespaces/a/configmaps/reviews"
PODS = "/api/v1/namespaces/a/pods"
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
        root = "/api/v1/namespaces/a"
        assert api.writes()[:4] == [
            f"POST {root}/configmaps",
            f"POST {CHILD.rpartition('/')[0]}",
            f"POST {root}/events",  # before the status that makes it old news
            f"PATCH {JOB}/status",
        ]
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


def reason(api: ClosableApi) -> str:
    """Of the condition Progressing."""
    found = api.objects[JOB].get("status", {}).get("conditions", [])
    return next((str(one["reason"]) for one in found if one["type"] == "Progressing"), "")


def test_a_name_that_somebody_has_is_left_to_them_until_they_leave_it() -> None:
    theirs = {"kind": "ConfigMap", "metadata": {"namespace": "a", "name": "reviews"}}

    async def scene(service: OperatorService, api: ClosableApi) -> None:
        before = api.put(FILE, {**theirs, "data": {"their": "words"}})
        api.put(JOB, make_job())
        await until(lambda: reason(api) == "NameTaken")
        assert api.objects[FILE] == before
        assert CHILD not in api.objects
        (event,) = (one for one in api.objects.values() if one.get("reason") == "NameTaken")
        assert "ConfigMap a/reviews was not made for this InferenceJob" in event["message"]
        del api.objects[FILE]
        service.requeue.now(("a", "reviews"))
        await until(lambda: reason(api) == "Creating")
        assert "job.yaml" in api.objects[FILE]["data"]
        assert CHILD in api.objects

    play(scene)


@pytest.mark.parametrize("uid", ["somebodys", ""])
def test_a_job_with_our_label_that_we_did_not_make_is_none_of_ours(uid: str) -> None:
    """It says that all is done, and so does a pod of somebody's with the label of our workers."""
    labels = {names.JOB_LABEL: "reviews"}
    owners = [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "x", "uid": uid}]
    done = {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]}

    async def scene(service: OperatorService, api: ClosableApi) -> None:
        metadata = {"namespace": "a", "name": "reviews", "uid": "c1", "labels": labels}
        metadata |= {"ownerReferences": owners if uid else []}
        api.put(CHILD, {"kind": "Job", "metadata": metadata, "spec": {}, "status": done})
        api.put(JOB, make_job())
        await until(lambda: reason(api) == "NameTaken")
        assert api.objects[JOB]["status"]["phase"] == "Pending"
        assert api.writes()[0].startswith("POST /api/v1/namespaces/a/events"), "first of all"

    play(scene)


def test_a_pod_with_our_label_that_our_job_did_not_make_counts_for_nothing() -> None:
    said = json.dumps({"reason": "Complete", "counts": {"completed": 9}})
    ended = {"state": {"terminated": {"exitCode": 0, "message": said}}}

    def pod(name: str, owner: Document | None) -> Document:
        labels, owners = {names.JOB_LABEL: "reviews"}, [owner] if owner else []
        metadata = {"namespace": "a", "name": name, "uid": name, "labels": labels}
        metadata["ownerReferences"] = owners
        status = {"phase": "Succeeded", "containerStatuses": [ended]}
        return {"kind": "Pod", "metadata": metadata, "status": status}

    async def scene(service: OperatorService, api: ClosableApi) -> None:
        metadata = {"namespace": "a", "name": "reviews", "uid": "c1"}
        metadata |= {"labels": {names.JOB_LABEL: "reviews"}, "ownerReferences": [{"uid": "u1"}]}
        api.put(CHILD, {"kind": "Job", "metadata": metadata, "spec": {}})
        api.put(f"{PODS}/stray", pod("stray", None))
        other = {"kind": "Job", "name": "reviews", "uid": "c0"}
        api.put(f"{PODS}/of-before", pod("of-before", other))
        api.put(JOB, make_job())
        await until(lambda: reason(api) == "PodsPending")
        own = pod("own", {"kind": "Job", "name": "reviews", "uid": "c1"})
        service.changed("ADDED", api.put(f"{PODS}/own", own), "pods")
        await until(lambda: reason(api) == "AllRecordsWritten")

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
        assert "cannot POST /api/v1/namespaces/a/configmaps" in events[0]["message"]
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
