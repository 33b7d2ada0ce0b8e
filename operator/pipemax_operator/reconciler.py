"""One InferenceJob brought nearer to what it asks for: read fresh, plan, act, one status write."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Any

from pipemax_worker.job import InferenceJob
from pydantic import ValidationError

from pipemax_operator import names
from pipemax_operator.cluster import Cluster, gather_progress
from pipemax_operator.conditions import format_time
from pipemax_operator.metrics import OperatorMetrics
from pipemax_operator.observation import observe, parse_pod
from pipemax_operator.plan import Event, Plan, plan
from pipemax_operator.settings import OperatorSettings

Document = dict[str, Any]


class Reconciler:
    """``reconcile`` may be called for the same key at any time, from any event: calls of one key
    run one after the other, and each reads everything anew."""

    def __init__(
        self,
        cluster: Cluster,
        settings: OperatorSettings,
        now: Callable[[], datetime],
        metrics: OperatorMetrics,
    ) -> None:
        self._cluster = cluster
        self._metrics = metrics
        self._settings = settings
        self._now = now
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """Seconds after which to come again without an event, or None. Raises what the API server
        refuses."""
        lock = self._locks.setdefault((namespace, name), asyncio.Lock())
        async with lock:
            with self._metrics.reconciling():
                return await self._reconcile(namespace, name)

    async def _reconcile(self, namespace: str, name: str) -> float | None:
        document = await self._cluster.get_inference_job(namespace, name)
        if document is None:
            self._locks.pop((namespace, name), None)
            self._metrics.forget(namespace, name)
            return None
        job = parse_inference_job(document)
        made = await self._plan(document, job, namespace)
        await self._carry_out(made, document, namespace, name)
        status = made.status or document.get("status") or {}
        self._metrics.show(namespace, name, status.get("phase", ""), status.get("progress", {}))
        return made.requeue_seconds

    async def _plan(self, document: Document, job: InferenceJob, namespace: str) -> Plan:
        name = job.metadata.name
        batch_job, pods = await asyncio.gather(
            self._cluster.get_batch_job(namespace, names.child_name(name)),
            self._cluster.list_pods(namespace, name),
        )
        ready = [
            (pod.name, pod.address)
            for pod in map(parse_pod, pods)
            if pod.address and pod.phase == "Running"
        ]
        progress = await gather_progress(self._cluster, ready, self._settings.metrics_port)
        observed = observe(document, batch_job, pods, progress)
        return plan(job, observed, self._now(), self._settings, namespace)

    async def _carry_out(self, made: Plan, document: Document, namespace: str, name: str) -> None:
        if made.delete_self:
            uid = document["metadata"]["uid"]
            await self._cluster.delete_inference_job(namespace, name, uid)
            return
        for child in made.apply:
            await self._cluster.apply(child)
        if made.child_changes:
            await self._cluster.change_batch_job(
                namespace, names.child_name(name), made.child_changes
            )
        if made.delete_child:
            await self._cluster.delete_batch_job(namespace, names.child_name(name))
        if made.status is not None:
            await self._cluster.write_status(namespace, name, made.status)
        for event in made.events:
            await self._cluster.post_event(build_event(event, document, self._now()))


def parse_inference_job(document: Document) -> InferenceJob:
    """The API server's document as the worker's model. Raises ValueError for one that the CRD let
    through and the model refuses: a bug of the CRD, since both are made from the same fields."""
    try:
        return InferenceJob.model_validate(document)
    except ValidationError as error:
        raise ValueError(f"{document['metadata']['name']}: {error}") from error


def build_event(event: Event, document: Document, now: datetime) -> Document:
    """A core/v1 Event about the InferenceJob; the same one twice has the same name."""
    metadata = document["metadata"]
    said = f"{metadata['uid']}{event.reason}{event.message}{format_time(now)}"
    suffix = hashlib.sha256(said.encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name']}.{suffix}",
            "namespace": metadata["namespace"],
        },
        "involvedObject": {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "reason": event.reason,
        "message": event.message[:1024],
        "type": "Warning" if event.is_warning else "Normal",
        "source": {"component": names.FIELD_MANAGER},
        "reportingComponent": names.FIELD_MANAGER,
        "firstTimestamp": format_time(now),
        "lastTimestamp": format_time(now),
        "count": 1,
    }
