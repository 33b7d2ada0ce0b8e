"""Workloads are found in whatever version the cluster's Kueue prefers."""

from __future__ import annotations

import asyncio
from typing import Any

from pipemax_operator.workload_client import WorkloadClient

Document = dict[str, Any]

WORKLOAD: Document = {"metadata": {"name": "job-reviews"}}


class FakeApiServer:
    """``version``: what Kueue serves; none: it is not installed."""

    def __init__(self, version: str = "") -> None:
        self.version = version
        self.calls: list[str] = []

    async def call(
        self,
        method: str,
        path: str,
        body: Document | None = None,
        content_type: str = "",
        query: list[tuple[str, str]] | None = None,
        missing_is_fine: bool = False,
    ) -> Document | None:
        assert missing_is_fine
        self.calls.append(f"{method} {path}")
        if path == "/apis/kueue.x-k8s.io":
            return {"preferredVersion": {"version": self.version}} if self.version else None
        if method == "PATCH":
            return body
        assert query == [("labelSelector", "kueue.x-k8s.io/job-uid=uid-2")]
        return {"items": [WORKLOAD]} if f"/{self.version}/" in path else None


def find(client: WorkloadClient) -> Document | None:
    return asyncio.run(client.find("team-a", "uid-2"))


def test_without_kueue_there_is_none() -> None:
    api = FakeApiServer()
    assert find(WorkloadClient(api)) is None  # type: ignore[arg-type]
    assert api.calls == ["GET /apis/kueue.x-k8s.io"]


def test_the_version_is_asked_for_once_and_again_after_an_upgrade() -> None:
    api = FakeApiServer("v1beta1")
    client = WorkloadClient(api)  # type: ignore[arg-type]
    assert find(client) == find(client) == WORKLOAD
    assert api.calls.count("GET /apis/kueue.x-k8s.io") == 1
    api.version = "v1beta2"
    assert find(client) is None
    assert find(client) == WORKLOAD
    assert api.calls[-1] == "GET /apis/kueue.x-k8s.io/v1beta2/namespaces/team-a/workloads"


def test_a_change_is_a_merge_patch_of_one_workload() -> None:
    api = FakeApiServer("v1beta2")
    client = WorkloadClient(api)  # type: ignore[arg-type]
    find(client)
    asyncio.run(client.change("team-a", "job-reviews", {"spec": {"active": False}}))
    path = "/apis/kueue.x-k8s.io/v1beta2/namespaces/team-a/workloads/job-reviews"
    assert api.calls[-1] == f"PATCH {path}"
