"""The wire for single pods: warnings about them, and their placement."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pipemax_operator.api_server import ForbiddenError

Document = dict[str, Any]
Call = Callable[..., Awaitable[Document | None]]

_STRATEGIC_MERGE = "application/strategic-merge-patch+json"


class PodClient:
    """Over ``call``: one API server's ``ApiServer.call``, or what stands before it."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def list_warnings(self, namespace: str, pod_uid: str) -> Sequence[Document]:
        """Events about that pod that are warnings; none without the right to read them."""
        selector = f"involvedObject.uid={pod_uid},type=Warning"
        path = f"/api/v1/namespaces/{namespace}/events"
        try:
            found = await self._call("GET", path, query=[("fieldSelector", selector)])
        except ForbiddenError:
            return []
        items: list[Document] = found.get("items", []) if found else []
        return items

    async def change(self, namespace: str, name: str, changes: Document) -> None:
        """A strategic merge patch; a pod that is gone needs none. Raises ConflictError for another
        pod's UID."""
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        await self._call("PATCH", path, changes, _STRATEGIC_MERGE, missing_is_fine=True)
