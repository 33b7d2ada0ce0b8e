"""The verbs of the API server as the operator uses them: create, apply, merge patches, list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipemax_operator import names
from pipemax_operator.api_server import ApiServer

Document = dict[str, Any]


async def create(api: ApiServer, path: str, document: Document) -> None:
    """Make one of the collection at ``path``; what has its name stays as it is (ConflictError)."""
    await api.call("POST", path, document, query=[("fieldManager", names.FIELD_MANAGER)])


async def apply(
    api: ApiServer, path: str, document: Document, missing_is_fine: bool = False
) -> None:
    """Server-side apply under the operator's name; what others hold of its fields becomes its own.
    Raises what :meth:`ApiServer.call` does, as all of these do."""
    query = [("fieldManager", names.FIELD_MANAGER), ("force", "true")]
    await api.call("PATCH", path, document, "application/apply-patch+yaml", query, missing_is_fine)


async def merge(api: ApiServer, path: str, changes: Document) -> None:
    """A merge patch: None takes a field away. Of what is gone nothing is left to change."""
    await api.call("PATCH", path, changes, "application/merge-patch+json", missing_is_fine=True)


async def merge_lists(api: ApiServer, path: str, changes: Document) -> None:
    """A strategic merge patch: items of lists by their keys. For what is gone as ``merge``."""
    kind = "application/strategic-merge-patch+json"
    await api.call("PATCH", path, changes, kind, missing_is_fine=True)


async def list_items(api: ApiServer, path: str, query: list[tuple[str, str]]) -> Sequence[Document]:
    """The items of a list, which name no kind."""
    found = await api.call("GET", path, query=query)
    items: list[Document] = found.get("items", []) if found else []
    return items
