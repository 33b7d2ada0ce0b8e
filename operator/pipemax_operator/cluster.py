"""The sole speaker to the API server, and to the workers' progress pages.

``Cluster`` is what the reconciler sees; ``KubernetesCluster`` does it over ``kubernetes.aio``.
Every write is idempotent: a create that finds its own work done, server-side apply under one field
manager, or a merge patch of one field.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Any, Protocol

import aiohttp

from pipemax_operator import api_verbs, names
from pipemax_operator.api_server import ApiServer, ConflictError, ForbiddenError
from pipemax_operator.child_client import ChildClient, batch_job_path
from pipemax_operator.node_client import NodeClient
from pipemax_operator.ownership import TakenName
from pipemax_operator.pod_client import PodClient
from pipemax_operator.workload_client import WorkloadClient

Document = dict[str, Any]

_PROGRESS_TIMEOUT_SECONDS = 3.0


class Cluster(Protocol):
    """What a reconciler needs of Kubernetes. Getters return None for what does not exist."""

    async def get_inference_job(self, namespace: str, name: str) -> Document | None: ...

    async def get_batch_job(self, namespace: str, name: str) -> Document | None: ...

    async def list_pods(self, namespace: str, job_name: str) -> Sequence[Document]: ...

    async def find_workload(self, namespace: str, job_uid: str) -> Document | None:
        """Kueue's Workload of the child Job with that uid."""

    async def change_workload(self, namespace: str, name: str, changes: Document) -> None:
        """A merge patch."""

    async def make_child(self, document: Document) -> TakenName | None:
        """Make it, or bring the job's own up to date; what has its name and is not the job's is
        left as it is, and returned. Raises ForbiddenError, ConflictError."""

    async def change_batch_job(
        self, namespace: str, name: str, changes: Document, resource_version: str = ""
    ) -> None:
        """Fields of its spec; None takes one away. With ``resource_version``: raises
        ConflictError if the Job has changed since."""

    async def delete_batch_job(self, namespace: str, name: str, uid: str) -> None:
        """The one with that UID. Raises ConflictError for another."""

    async def list_warnings(self, namespace: str, pod_uid: str) -> Sequence[Document]:
        """Events about that pod that are warnings; none without the right to read them."""

    async def change_pod(self, namespace: str, name: str, changes: Document) -> None:
        """A strategic merge patch. Raises ConflictError for another pod's UID."""

    async def list_nodes(self) -> Sequence[Document] | None:
        """None: the operator may not see nodes."""

    async def end_pod(self, namespace: str, name: str, end: Document) -> None:
        """Say for a lost kubelet that the pod has ended, by the status in ``end``, and delete it.
        Raises ConflictError if the pod has changed since."""

    async def delete_inference_job(self, namespace: str, name: str, uid: str) -> None: ...

    async def write_status(
        self, namespace: str, name: str, status: Document, resource_version: str = ""
    ) -> None:
        """The status as a whole. With ``resource_version``: raises ConflictError if the
        InferenceJob has changed since it was read."""

    async def post_event(self, event: Document) -> None: ...

    async def read_progress(self, address: str, port: int) -> Document | None:
        """A worker's ``/progress``; None if it does not answer."""


class KubernetesCluster:
    """Over one API server. End it with ``close``; the API server is its maker's to close."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._children = ChildClient(api)
        self._workloads = WorkloadClient(api)
        self._nodes = NodeClient(api)
        self._pods = PodClient(api)
        self._session = aiohttp.ClientSession()

    async def close(self) -> None:
        await self._session.close()

    # --- reading

    async def get_inference_job(self, namespace: str, name: str) -> Document | None:
        return await self._get(_inference_job_path(namespace, name))

    async def get_batch_job(self, namespace: str, name: str) -> Document | None:
        return await self._get(batch_job_path(namespace, name))

    async def list_pods(self, namespace: str, job_name: str) -> Sequence[Document]:
        path = f"/api/v1/namespaces/{namespace}/pods"
        selector = f"{names.JOB_LABEL}={job_name}"
        return await api_verbs.list_items(self._api, path, [("labelSelector", selector)])

    async def read_progress(self, address: str, port: int) -> Document | None:
        timeout = aiohttp.ClientTimeout(total=_PROGRESS_TIMEOUT_SECONDS)
        host = f"[{address}]" if ":" in address else address
        try:
            async with self._session.get(
                f"http://{host}:{port}/progress", timeout=timeout
            ) as response:
                body: Document = await response.json(content_type=None)
                return body if response.status == 200 else None
        except (TimeoutError, aiohttp.ClientError, json.JSONDecodeError):
            return None

    async def find_workload(self, namespace: str, job_uid: str) -> Document | None:
        return await self._workloads.find(namespace, job_uid)

    async def list_nodes(self) -> Sequence[Document] | None:
        return await self._nodes.list_nodes()

    async def list_warnings(self, namespace: str, pod_uid: str) -> Sequence[Document]:
        return await self._pods.list_warnings(namespace, pod_uid)

    # --- writing

    async def change_pod(self, namespace: str, name: str, changes: Document) -> None:
        await self._pods.change(namespace, name, changes)

    async def end_pod(self, namespace: str, name: str, end: Document) -> None:
        await self._nodes.end_pod(namespace, name, end)

    async def change_workload(self, namespace: str, name: str, changes: Document) -> None:
        await self._workloads.change(namespace, name, changes)

    async def make_child(self, document: Document) -> TakenName | None:
        return await self._children.make(document)

    async def change_batch_job(
        self, namespace: str, name: str, changes: Document, resource_version: str = ""
    ) -> None:
        body: Document = {"spec": changes}
        if resource_version:
            body["metadata"] = {"resourceVersion": resource_version}
        await api_verbs.merge(self._api, batch_job_path(namespace, name), body)

    async def delete_batch_job(self, namespace: str, name: str, uid: str) -> None:
        await self._delete(batch_job_path(namespace, name), uid)

    async def delete_inference_job(self, namespace: str, name: str, uid: str) -> None:
        await self._delete(_inference_job_path(namespace, name), uid)

    async def write_status(
        self, namespace: str, name: str, status: Document, resource_version: str = ""
    ) -> None:
        """The status as a whole: a field that is not in it any more is taken away."""
        metadata = {"name": name, "namespace": namespace}
        if resource_version:
            metadata["resourceVersion"] = resource_version
        path = f"{_inference_job_path(namespace, name)}/status"
        document = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": metadata,
            "status": status,
        }
        await api_verbs.apply(self._api, path, document, missing_is_fine=True)

    async def post_event(self, event: Document) -> None:
        """Once: an event of the same name has been posted before, perhaps by a predecessor."""
        namespace = event["metadata"]["namespace"]
        with contextlib.suppress(ConflictError):
            await self._api.call("POST", f"/api/v1/namespaces/{namespace}/events", event)

    async def _delete(self, path: str, uid: str) -> None:
        body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        await self._api.call("DELETE", path, body, missing_is_fine=True)

    async def _get(self, path: str) -> Document | None:
        return await self._api.call("GET", path, missing_is_fine=True)


def _inference_job_path(namespace: str, name: str) -> str:
    return f"/apis/{names.API_VERSION}/namespaces/{namespace}/{names.PLURAL}/{name}"


async def gather_progress(
    cluster: Cluster, pods: Sequence[tuple[str, str]], port: int
) -> dict[str, Document]:
    """Pod name -> progress of those of ``pods`` (name, address) that answer, all at once."""
    answers = await asyncio.gather(*(cluster.read_progress(address, port) for _, address in pods))
    return {name: body for (name, _), body in zip(pods, answers, strict=True) if body is not None}


__all__ = ["Cluster", "ConflictError", "ForbiddenError", "KubernetesCluster", "gather_progress"]
