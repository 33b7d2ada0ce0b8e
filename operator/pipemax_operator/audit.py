"""Lists of everything, rarely: what fills the cache at first, and what proves the watches after.

A watch can die without a word, and kopf tells nothing of objects that went while a watch was
broken. So every few minutes all objects are listed and laid beside the cache. What the watch of a
kind has not told by the audit after that, it will not tell any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipemax_operator import names
from pipemax_operator.api_server import ApiServer
from pipemax_operator.object_cache import ObjectCache, ObjectKey, job_of, key_of

Document = dict[str, Any]

PAGE_OBJECTS = 250
AUDIT_SECONDS = 300.0

# Kind -> where it is listed, and the selector.
_LISTED: Mapping[str, tuple[str, str, str]] = {
    names.KIND: (f"/apis/{names.API_VERSION}", names.PLURAL, ""),
    "Job": ("/apis/batch/v1", "jobs", names.JOB_LABEL),
    "Pod": ("/api/v1", "pods", names.JOB_LABEL),
}


@dataclass(frozen=True)
class Findings:
    """What an audit has shown.

    stale        jobs that are to be looked at again: a list knew more than the cache.
    num_missed   objects of which no watch had told: still owed since an audit before, or gone
                 without a word. What was just on its way is not among them.
    """

    stale: frozenset[tuple[str, str]]
    num_missed: int


class Audit:
    """``namespaces``: empty for all. ``monotonic``: seconds."""

    def __init__(
        self,
        api: ApiServer,
        cache: ObjectCache,
        namespaces: Sequence[str],
        monotonic: Callable[[], float],
    ) -> None:
        self._api = api
        self._cache = cache
        self._namespaces = namespaces
        self._monotonic = monotonic
        self._untold: dict[str, dict[ObjectKey, tuple[int, float]]] = {k: {} for k in _LISTED}
        self.last_success: float | None = None

    async def run(self) -> Findings:
        """List all kinds once, and mend the cache. Raises what the API server refuses."""
        stale: set[tuple[str, str]] = set()
        num_missed = sum(map(len, self._untold.values()))
        for kind in _LISTED:
            before = self._cache.versions(kind)
            seen: set[str] = set()
            async for page in self._pages(kind):
                for document in page:
                    seen.add(document["metadata"]["uid"])
                    if self._cache.store(document):
                        stale.add(self._missed(document))
            vanished = list(self._vanished(before, seen))
            num_missed += len(vanished)
            stale.update(vanished)
        self.last_success = self._monotonic()
        return Findings(frozenset(stale), num_missed)

    def told(self, document: Document) -> None:
        """A watch has told of ``document``: it is no longer behind for it."""
        key = key_of(document)
        untold = self._untold.get(key.kind, {})
        if key in untold and untold[key][0] <= int(document["metadata"]["resourceVersion"]):
            del untold[key]

    def behind_seconds(self) -> dict[str, float]:
        """Kind -> for how long its watch has owed us an object that a list has shown."""
        now = self._monotonic()
        return {
            kind: now - min(since for _, since in untold.values())
            for kind, untold in self._untold.items()
            if untold
        }

    def _missed(self, document: Document) -> tuple[str, str]:
        key = key_of(document)
        if self.last_success is not None:  # the first lists come before any watch
            version = int(document["metadata"]["resourceVersion"])
            since = self._untold[key.kind].get(key, (0, self._monotonic()))[1]
            self._untold[key.kind][key] = (version, since)
        return key.namespace, job_of(document)

    def _vanished(
        self, before: Mapping[ObjectKey, tuple[str, int]], seen: set[str]
    ) -> Iterator[tuple[str, str]]:
        for key, (uid, _) in before.items():
            if uid in seen:
                continue
            self._untold[key.kind].pop(key, None)
            job = self._cache.job_named_by(key)
            if self._cache.forget(key, uid):
                yield key.namespace, job

    async def _pages(self, kind: str) -> Any:
        for scope in [f"namespaces/{name}/" for name in self._namespaces] or [""]:
            root, plural, selector = _LISTED[kind]
            token = ""
            while True:
                query = [("limit", str(PAGE_OBJECTS))]
                query += [("labelSelector", selector)] if selector else []
                query += [("continue", token)] if token else []
                page = await self._api.call("GET", f"{root}/{scope}{plural}", query=query) or {}
                version = root.removeprefix("/apis/").removeprefix("/api/")
                yield [{**item, "kind": kind, "apiVersion": version} for item in page["items"]]
                token = page.get("metadata", {}).get("continue", "")
                if not token:
                    break
