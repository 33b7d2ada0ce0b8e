"""The wire for lost nodes: which nodes there are, and the end of a pod whose kubelet is away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipemax_operator import api_verbs
from pipemax_operator.api_server import ApiServer, ForbiddenError

Document = dict[str, Any]


class NodeClient:
    """Over one API server."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api

    async def list_nodes(self) -> Sequence[Document] | None:
        """All nodes, from the API server's memory; None without the right, as with a Role."""
        try:
            return await api_verbs.list_items(
                self._api, "/api/v1/nodes", [("resourceVersion", "0")]
            )
        except ForbiddenError:
            return None

    async def end_pod(self, namespace: str, name: str, end: Document) -> None:
        """Write the status that ends it, then delete it without waiting for its kubelet. Raises
        ConflictError if the pod is another one by now, or has changed since ``end`` was made."""
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        await api_verbs.merge_lists(self._api, f"{path}/status", end)
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": end["metadata"]["uid"]}}
        await self._api.call("DELETE", path, body, missing_is_fine=True)
