"""Kueue's Workloads over the API server: one is found by the Job that it stands for."""

from __future__ import annotations

from typing import Any

from pipemax_operator import api_verbs
from pipemax_operator.api_server import ApiServer
from pipemax_operator.kueue import GROUP, JOB_UID_LABEL

Document = dict[str, Any]


class WorkloadClient:
    """Speaks the version that the cluster's Kueue prefers; without Kueue there are none."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._version = ""

    async def find(self, namespace: str, job_uid: str) -> Document | None:
        """The Workload of one Job; None if Kueue has made none, or is not installed."""
        if not self._version and not await self._discover():
            return None
        selector = [("labelSelector", f"{JOB_UID_LABEL}={job_uid}")]
        path = self._path(namespace)
        found = await self._api.call("GET", path, query=selector, missing_is_fine=True)
        if found is None:  # Kueue was taken away, or serves another version now
            self._version = ""
            return None
        return next(iter(found["items"]), None)

    async def change(self, namespace: str, name: str, changes: Document) -> None:
        """A merge patch; of a Workload that is gone nothing is left to change."""
        await api_verbs.merge(self._api, f"{self._path(namespace)}/{name}", changes)

    async def _discover(self) -> bool:
        group = await self._api.call("GET", f"/apis/{GROUP}", missing_is_fine=True)
        self._version = group["preferredVersion"]["version"] if group else ""
        return bool(self._version)

    def _path(self, namespace: str) -> str:
        return f"/apis/{GROUP}/{self._version}/namespaces/{namespace}/workloads"
