"""The sole speaker to the API server, and to the workers' progress pages.

``Cluster`` is what the reconciler sees; ``KubernetesCluster`` does it over ``kubernetes.aio``.
Every write is idempotent: server-side apply under one field manager, or a merge patch of one field.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Protocol

import aiohttp
from kubernetes.aio import client, config

from pipemax_operator import names

Document = dict[str, Any]

_PROGRESS_TIMEOUT_SECONDS = 3.0
_REQUEST_TIMEOUT_SECONDS = 30.0


class ConflictError(Exception):
    """The object has changed since it was read, or another one holds the name."""


class ForbiddenError(Exception):
    """RBAC does not allow it; the message is the API server's."""


class Cluster(Protocol):
    """What a reconciler needs of Kubernetes. Getters return None for what does not exist."""

    async def get_inference_job(self, namespace: str, name: str) -> Document | None: ...

    async def get_batch_job(self, namespace: str, name: str) -> Document | None: ...

    async def list_pods(self, namespace: str, job_name: str) -> Sequence[Document]: ...

    async def apply(self, document: Document) -> None:
        """Server-side apply. Raises ForbiddenError, ConflictError."""

    async def change_batch_job(self, namespace: str, name: str, changes: Document) -> None:
        """Fields of its spec; None takes one away."""

    async def delete_batch_job(self, namespace: str, name: str) -> None: ...

    async def delete_inference_job(self, namespace: str, name: str, uid: str) -> None: ...

    async def write_status(self, namespace: str, name: str, status: Document) -> None: ...

    async def post_event(self, event: Document) -> None: ...

    async def read_progress(self, address: str, port: int) -> Document | None:
        """A worker's ``/progress``; None if it does not answer."""


class KubernetesCluster:
    """Over one client of the API server. Make it with :meth:`connect`, end it with ``close``."""

    def __init__(self, api: client.ApiClient, session: aiohttp.ClientSession) -> None:
        self._api: Any = api  # its own annotations do not hold
        self._session = session

    @classmethod
    async def connect(cls) -> KubernetesCluster:
        """With the pod's service account, or with the kubeconfig where there is none."""
        untyped: Any = config
        try:
            untyped.load_incluster_config()
        except untyped.ConfigException:
            await untyped.load_kube_config()
        return cls(client.ApiClient(), aiohttp.ClientSession())

    async def close(self) -> None:
        await self._api.close()
        await self._session.close()

    # --- reading

    async def get_inference_job(self, namespace: str, name: str) -> Document | None:
        return await self._get(_inference_job_path(namespace, name))

    async def get_batch_job(self, namespace: str, name: str) -> Document | None:
        return await self._get(_batch_job_path(namespace, name))

    async def list_pods(self, namespace: str, job_name: str) -> Sequence[Document]:
        path = f"/api/v1/namespaces/{namespace}/pods"
        selector = f"{names.JOB_LABEL}={job_name}"
        found = await self._call("GET", path, query=[("labelSelector", selector)])
        items: list[Document] = found.get("items", []) if found else []
        return items

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

    # --- writing

    async def apply(self, document: Document) -> None:
        await self._call(
            "PATCH",
            _path_of(document),
            document,
            "application/apply-patch+yaml",
            [("fieldManager", names.FIELD_MANAGER), ("force", "true")],
        )

    async def change_batch_job(self, namespace: str, name: str, changes: Document) -> None:
        await self._merge(_batch_job_path(namespace, name), {"spec": changes})

    async def delete_batch_job(self, namespace: str, name: str) -> None:
        body = {"propagationPolicy": "Background"}
        await self._call("DELETE", _batch_job_path(namespace, name), body, missing_is_fine=True)

    async def delete_inference_job(self, namespace: str, name: str, uid: str) -> None:
        body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        path = _inference_job_path(namespace, name)
        await self._call("DELETE", path, body, missing_is_fine=True)

    async def write_status(self, namespace: str, name: str, status: Document) -> None:
        """The status as a whole: a field that is not in it any more is taken away."""
        path = f"{_inference_job_path(namespace, name)}/status"
        document = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": name, "namespace": namespace},
            "status": status,
        }
        await self._call(
            "PATCH",
            path,
            document,
            "application/apply-patch+yaml",
            [("fieldManager", names.FIELD_MANAGER), ("force", "true")],
            missing_is_fine=True,
        )

    async def post_event(self, event: Document) -> None:
        namespace = event["metadata"]["namespace"]
        await self._call("POST", f"/api/v1/namespaces/{namespace}/events", event)

    # --- the wire

    async def _get(self, path: str) -> Document | None:
        return await self._call("GET", path, missing_is_fine=True)

    async def _merge(self, path: str, body: Document) -> None:
        await self._call("PATCH", path, body, "application/merge-patch+json", missing_is_fine=True)

    async def _call(
        self,
        method: str,
        path: str,
        body: Document | None = None,
        content_type: str = "application/json",
        query: list[tuple[str, str]] | None = None,
        missing_is_fine: bool = False,
    ) -> Document | None:
        parameters = await self._api.param_serialize(
            method=method,
            resource_path=path,
            query_params=query or [],
            header_params={"Accept": "application/json", "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        response = await self._api.call_api(*parameters, _request_timeout=_REQUEST_TIMEOUT_SECONDS)
        data = await response.read()
        if response.status == 404 and missing_is_fine:
            return None
        if response.status >= 400:
            raise _error(response.status, method, path, data)
        return json.loads(data) if data else None


def _error(status: int, method: str, path: str, data: bytes) -> Exception:
    try:
        message = json.loads(data).get("message", "")
    except (json.JSONDecodeError, AttributeError):
        message = data[:500].decode(errors="replace")
    text = f"{method} {path}: {status}: {message}"
    kinds: dict[int, type[Exception]] = {403: ForbiddenError, 409: ConflictError}
    return kinds.get(status, RuntimeError)(text)


def _inference_job_path(namespace: str, name: str) -> str:
    return f"/apis/{names.API_VERSION}/namespaces/{namespace}/{names.PLURAL}/{name}"


def _batch_job_path(namespace: str, name: str) -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}"


def _path_of(document: Document) -> str:
    namespace, name = document["metadata"]["namespace"], document["metadata"]["name"]
    if document["kind"] == "Job":
        return _batch_job_path(namespace, name)
    return f"/api/v1/namespaces/{namespace}/{document['kind'].lower()}s/{name}"


async def gather_progress(
    cluster: Cluster, pods: Sequence[tuple[str, str]], port: int
) -> dict[str, Document]:
    """Pod name -> progress of those of ``pods`` (name, address) that answer, all at once."""
    answers = await asyncio.gather(*(cluster.read_progress(address, port) for _, address in pods))
    return {name: body for (name, _), body in zip(pods, answers, strict=True) if body is not None}
