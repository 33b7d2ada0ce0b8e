"""An API server in memory, as far as the operator's own life needs one: versions and conflicts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from pipemax_operator.api_server import ConflictError, no_fence

Document = dict[str, Any]


class FakeApiServer:
    """Objects by path. ``fault``: raised by every call while it is set. ``calls``: all of them."""

    def __init__(self) -> None:
        self.objects: dict[str, Document] = {}
        self.fault: Exception | None = None
        self.calls: list[tuple[str, str]] = []
        self.fence: Callable[[], float] = no_fence
        self.learn: Callable[[Document], None] = lambda document: None
        self.page_size = 1000
        self._version = 0

    def put(self, path: str, document: Document) -> Document:
        """As somebody else would; the stored document."""
        self._version += 1
        metadata = {**document.get("metadata", {}), "resourceVersion": str(self._version)}
        self.objects[path] = {**document, "metadata": metadata}
        return copy.deepcopy(self.objects[path])

    async def call(
        self,
        method: str,
        path: str,
        body: Document | None = None,
        content_type: str = "application/json",
        query: list[tuple[str, str]] | None = None,
        missing_is_fine: bool = False,
        timeout_seconds: float | None = None,
    ) -> Document | None:
        self.calls.append((method, path))
        if self.fault is not None:
            raise self.fault
        if method == "GET":
            return self._get(path, dict(query or []))
        if timeout_seconds is None:
            self.fence()
        assert body is not None
        answer = self._write(method, path, body)
        self.learn(answer)
        return answer

    def _write(self, method: str, path: str, body: Document) -> Document:
        if method == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                raise ConflictError(f"{path} exists")
            return self.put(path, body)
        path = path.removesuffix("/status")
        self._check_version(path, body)
        merged = body if method == "PUT" else {**self.objects.get(path, {}), **body}
        known = self.objects.get(path, {}).get("metadata", {})
        return self.put(path, {**merged, "metadata": {**known, **body.get("metadata", {})}})

    def _check_version(self, path: str, body: Document) -> None:
        version = body.get("metadata", {}).get("resourceVersion")
        known = self.objects.get(path, {}).get("metadata", {}).get("resourceVersion")
        if version is not None and version != known:
            raise ConflictError(f"{path}: {version} is not {known}")

    def _get(self, path: str, query: dict[str, str]) -> Document | None:
        if "limit" not in query and "labelSelector" not in query:
            found = self.objects.get(path)
            return copy.deepcopy(found)
        below = sorted(one for one in self.objects if _is_item_of(one, path))
        start = int(query.get("continue", "0"))
        page = below[start : start + self.page_size]
        more = str(start + self.page_size) if start + self.page_size < len(below) else ""
        items = [copy.deepcopy(self.objects[one]) for one in page]
        for item in items:
            item.pop("kind", None)  # items of a list name no kind
        return {"metadata": {"continue": more}, "items": items}


def _is_item_of(path: str, collection: str) -> bool:
    """``collection``: of one namespace, or of all."""
    if path.rpartition("/")[0] == collection:
        return True
    root, _, plural = collection.rpartition("/")
    return path.startswith(f"{root}/namespaces/") and path.split("/")[-2] == plural
