"""What sweeping asks of the API server: its own objects in the operator's namespace, and whether a
job is over. Sole speaker for ``nvme_sweeper``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pipemax_operator import api_verbs, names
from pipemax_operator.api_server import ApiServer
from pipemax_operator.conditions import final_condition
from pipemax_operator.manifests.sweep_job import SWEEP_LABEL
from pipemax_operator.nvme_records import RECORD_LABEL
from pipemax_operator.settings import OperatorSettings

Document = dict[str, Any]


class FolderClient(Protocol):
    """Every method raises ForbiddenError and what the wire raises."""

    async def list_records(self) -> Sequence[Document]: ...

    async def list_sweep_jobs(self) -> Sequence[Document]: ...

    async def list_sweep_pods(self) -> Sequence[Document]: ...

    async def apply(self, document: Document) -> None: ...

    async def delete_record(self, name: str) -> None: ...

    async def delete_sweep_job(self, name: str) -> None: ...

    async def is_over(self, namespace: str, name: str, uid: str) -> bool:
        """Whether the InferenceJob has ended for good, or is not there any more."""


class KubernetesFolderClient:
    """Over one API server, which is its maker's to close."""

    def __init__(self, api: ApiServer, settings: OperatorSettings) -> None:
        self._api = api
        self._settings = settings
        namespace = settings.system_namespace
        self._records = f"/api/v1/namespaces/{namespace}/configmaps"
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"

    async def list_records(self) -> Sequence[Document]:
        return await self._list(self._records, RECORD_LABEL)

    async def list_sweep_jobs(self) -> Sequence[Document]:
        return await self._list(self._jobs, SWEEP_LABEL)

    async def list_sweep_pods(self) -> Sequence[Document]:
        return await self._list(self._pods, SWEEP_LABEL)

    async def apply(self, document: Document) -> None:
        folder = self._jobs if document["kind"] == "Job" else self._records
        await api_verbs.apply(self._api, f"{folder}/{document['metadata']['name']}", document)

    async def delete_record(self, name: str) -> None:
        await self._api.call("DELETE", f"{self._records}/{name}", missing_is_fine=True)

    async def delete_sweep_job(self, name: str) -> None:
        body = {"propagationPolicy": "Background"}
        await self._api.call("DELETE", f"{self._jobs}/{name}", body, missing_is_fine=True)

    async def is_over(self, namespace: str, name: str, uid: str) -> bool:
        """By a list, not a get: an API server that does not serve InferenceJobs (yet) answers both
        with 404, and only from a list can that be told from a job that is gone."""
        path = f"/apis/{names.API_VERSION}/namespaces/{namespace}/{names.PLURAL}"
        found = await self._api.call(
            "GET", path, query=[("fieldSelector", f"metadata.name={name}")]
        )
        if found is None or "items" not in found:
            raise RuntimeError(f"GET {path}: no list of {names.PLURAL}")
        for document in found["items"]:
            if document["metadata"]["uid"] == uid:
                conditions = (document.get("status") or {}).get("conditions") or ()
                return final_condition(conditions) is not None
        return True

    async def _list(self, path: str, label: str) -> Sequence[Document]:
        selector = f"{label}={self._settings.system_name}"
        return await api_verbs.list_items(self._api, path, [("labelSelector", selector)])
