"""The wire for single pods: warnings about them, and their placement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipemax_operator import api_verbs
from pipemax_operator.api_server import ApiServer, ForbiddenError

Document = dict[str, Any]


class PodClient:
    """Over one API server."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api

    async def list_warnings(self, namespace: str, pod_uid: str) -> Sequence[Document]:
        """Events about that pod that are warnings; none without the right to read them."""
        selector = f"involvedObject.uid={pod_uid},type=Warning"
        path = f"/api/v1/namespaces/{namespace}/events"
        try:
            return await api_verbs.list_items(self._api, path, [("fieldSelector", selector)])
        except ForbiddenError:
            return []

    async def change(self, namespace: str, name: str, changes: Document) -> None:
        """A strategic merge patch; a pod that is gone needs none. Raises ConflictError for another
        pod's UID."""
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        await api_verbs.merge_lists(self._api, path, changes)
