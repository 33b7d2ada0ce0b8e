"""The cluster with its reads answered from memory; every write teaches the memory its outcome."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pipemax_operator import names
from pipemax_operator.api_server import ApiServer
from pipemax_operator.cluster import KubernetesCluster
from pipemax_operator.object_cache import ObjectCache, job_of
from pipemax_operator.rare_reads import RareReads

Document = dict[str, Any]

_EVENTS_FRESH_SECONDS = 15.0


class CachedCluster(KubernetesCluster):
    """Reads cost nothing and may be old; a write made from an old reading is refused by the
    resource version that it carries, and :meth:`refresh` then asks for what is."""

    def __init__(self, api: ApiServer, cache: ObjectCache) -> None:
        super().__init__(api)
        self._cache = cache
        api.learn = self._learn
        self._event_reads = RareReads(_EVENTS_FRESH_SECONDS, time.monotonic)

    async def get_inference_job(self, namespace: str, name: str) -> Document | None:
        return self._cache.get(names.KIND, namespace, name)

    async def get_batch_job(self, namespace: str, name: str) -> Document | None:
        return self._cache.get("Job", namespace, name)

    async def list_pods(self, namespace: str, job_name: str) -> Sequence[Document]:
        return self._cache.pods_of(namespace, job_name)

    async def list_warnings(self, namespace: str, pod_uid: str) -> Sequence[Document]:
        async def ask() -> Sequence[Document]:
            return await KubernetesCluster.list_warnings(self, namespace, pod_uid)

        return await self._event_reads.if_idle(pod_uid, ask)

    async def refresh(self, namespace: str, name: str) -> None:
        """Ask the API server for one InferenceJob and its children: three calls."""
        known = self._known(namespace, name)
        fresh = [
            await super().get_inference_job(namespace, name),
            await super().get_batch_job(namespace, names.child_name(name)),
            # Items of a list name no kind.
            *({**pod, "kind": "Pod"} for pod in await super().list_pods(namespace, name)),
        ]
        found = [document for document in fresh if document is not None]
        for document in found:
            self._cache.store(document)
        alive = {document["metadata"]["uid"] for document in found}
        for document in known:
            if document["metadata"]["uid"] not in alive:
                self._cache.remove(document)

    def _known(self, namespace: str, name: str) -> list[Document]:
        own = (
            self._cache.get(names.KIND, namespace, name),
            self._cache.get("Job", namespace, names.child_name(name)),
        )
        return [d for d in own if d is not None] + self._cache.pods_of(namespace, name)

    def _learn(self, answer: Document) -> None:
        """The operator's Jobs of its own, for sweeps, belong to no InferenceJob."""
        if "uid" in answer.get("metadata", {}) and job_of(answer):
            self._cache.store(answer)
