"""One InferenceJob brought nearer to what it asks for: read fresh, plan, act, one status write."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from pipemax_worker.job import InferenceJob
from pydantic import ValidationError

from pipemax_operator import names, pod_end
from pipemax_operator.avoided_nodes import USED_AGAIN
from pipemax_operator.cluster import Cluster, ConflictError, ForbiddenError, gather_progress
from pipemax_operator.folder_notes import FolderNotes, NoFolderNotes
from pipemax_operator.kueue import may_have_workload
from pipemax_operator.metrics import OperatorMetrics
from pipemax_operator.node_loss import build_end
from pipemax_operator.node_loss_watch import MAX_GAP_SECONDS, NodeLossWatch
from pipemax_operator.observation import find_deadline, observe, parse_batch_job, parse_pod
from pipemax_operator.observed import Observed, ObservedNode
from pipemax_operator.ownership import find_taken, is_owned, is_pod_of
from pipemax_operator.plan import Plan, plan
from pipemax_operator.pod_events import MAX_PODS, is_silent
from pipemax_operator.refusal import build_refused_status
from pipemax_operator.settings import OperatorSettings
from pipemax_operator.told_events import Event, build_event

Document = dict[str, Any]

logger = logging.getLogger(__name__)


class Reconciler:
    """``reconcile`` may be called for the same key at any time, from any event: calls of one key
    run one after the other, and each reads everything anew."""

    def __init__(
        self,
        cluster: Cluster,
        settings: OperatorSettings,
        now: Callable[[], datetime],
        metrics: OperatorMetrics,
        folders: FolderNotes | None = None,
    ) -> None:
        self._cluster = cluster
        self._metrics = metrics
        self._folders = folders or NoFolderNotes()
        self._settings = settings
        self._now = now
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        max_gap_seconds = max(MAX_GAP_SECONDS, 3 * settings.poll_seconds)
        self._node_loss = NodeLossWatch(cluster.list_nodes, max_gap_seconds)

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
            self._folders.suspect(namespace, name)
            self._node_loss.forget((namespace, name))
            return None
        pods = await self._list_pods(namespace, name)
        nodes = await self._node_loss.read_nodes(pods, self._now(), document.get("status"))
        progress = await self._read_progress(namespace, name)
        events = await self._read_events(namespace, pods)
        await self._folders.note(document, pods)
        # From here to the write nothing is awaited that takes long: what is read is what is.
        if (document := await self._cluster.get_inference_job(namespace, name)) is None:
            return 0.0
        job = parse_inference_job(document)
        observed, child = await self._observe(document, job, progress, events, nodes)
        try:
            made = await self._make_children(job, observed, namespace)
            await self._carry_out(made, document, child)
        except ForbiddenError as error:
            await self._tell_refusal(document, str(error))
            raise
        status = made.status or document.get("status") or {}
        self._metrics.show(namespace, name, status.get("phase", ""), status.get("progress", {}))
        self._metrics.show_energy(namespace, name, status.get("energy") or {})
        deadline = find_deadline(child, job.spec.deadline)
        self._metrics.show_times({**document, "status": status}, deadline, self._now())
        if made.status is not None and made.requeue_seconds is None:
            return 0.0  # our own write is no event to us, and an end has a time to live
        return made.requeue_seconds

    async def _list_pods(self, namespace: str, name: str) -> list[Document]:
        """Of the child Job, or of a predecessor's; not who has the label alone."""
        pods = await self._cluster.list_pods(namespace, name)
        return [pod for pod in pods if is_pod_of(name, pod)]

    async def _read_progress(self, namespace: str, name: str) -> dict[str, Document]:
        pods = map(parse_pod, await self._list_pods(namespace, name))
        ready = [(pod.name, pod.address) for pod in pods if pod.address and pod.phase == "Running"]
        return await gather_progress(self._cluster, ready, self._settings.metrics_port)

    async def _read_events(
        self, namespace: str, pods: Sequence[Document]
    ) -> dict[str, Sequence[Document]]:
        """Of pods that do not start and do not say why: a few, and only then."""
        silent = [pod.uid for pod in map(parse_pod, pods) if is_silent(pod, self._now())]
        read = self._cluster.list_warnings
        return {uid: await read(namespace, uid) for uid in silent[:MAX_PODS]}

    async def _observe(
        self,
        document: Document,
        job: InferenceJob,
        progress: dict[str, Document],
        events: dict[str, Sequence[Document]],
        nodes: tuple[ObservedNode, ...] | None,
    ) -> tuple[Observed, Document | None]:
        """What a plan is made from, and the child Job. Only what is the job's by its UID counts."""
        name, namespace = job.metadata.name, document["metadata"]["namespace"]
        uid = document["metadata"]["uid"]
        found, pods = await asyncio.gather(
            self._cluster.get_batch_job(namespace, names.child_name(name)),
            self._list_pods(namespace, name),
        )
        child = found if found is not None and is_owned(uid, found) else None
        taken = None if found is None or child is not None else find_taken(name, uid, found)
        pods = [pod for pod in pods if child and is_owned(child["metadata"]["uid"], pod)]
        own = {pod["metadata"]["name"] for pod in pods}
        progress = {pod: said for pod, said in progress.items() if pod in own}
        workload = await self._find_workload(job, child, namespace)
        observed = observe(document, child, pods, progress, workload, events)
        observed = self._node_loss.add((namespace, name), observed, nodes, self._now())
        return replace(observed, taken=taken), child

    async def _make_children(self, job: InferenceJob, observed: Observed, namespace: str) -> Plan:
        """What is to be done besides; made anew if a name turns out to be somebody else's."""
        made = plan(job, observed, self._now(), self._settings, namespace)
        for document in made.apply:
            if (taken := await self._cluster.make_child(document)) is not None:
                observed = replace(observed, taken=taken)
                return plan(job, observed, self._now(), self._settings, namespace)
        return made

    async def _find_workload(
        self, job: InferenceJob, batch_job: Document | None, namespace: str
    ) -> Document | None:
        if batch_job is None or not may_have_workload(job, parse_batch_job(batch_job)):
            return None
        return await self._cluster.find_workload(namespace, batch_job["metadata"]["uid"])

    async def _carry_out(self, made: Plan, document: Document, child: Document | None) -> None:
        """All but the children. Each write is refused if what it was made from has changed since
        (ConflictError)."""
        metadata, child_metadata = document["metadata"], (child or {}).get("metadata", {})
        namespace, name = metadata["namespace"], metadata["name"]
        if made.delete_self:
            await self._cluster.delete_inference_job(namespace, name, metadata["uid"])
            return
        if made.child_changes:
            version = child_metadata.get("resourceVersion", "")
            await self._cluster.change_batch_job(
                namespace, names.child_name(name), made.child_changes, version
            )
        if made.workload_changes:
            workload = made.workload_changes["metadata"]["name"]
            await self._cluster.change_workload(namespace, workload, made.workload_changes)
        for lost in made.replace:
            end = build_end(lost, self._now())
            await self._cluster.end_pod(namespace, lost.pod.name, end)
        for pod, why in made.renew:
            end = pod_end.build_end(pod, USED_AGAIN, why, self._now())
            await self._cluster.end_pod(namespace, pod.name, end)
        for released in made.release:
            await self._cluster.change_pod(namespace, released.pod, released.patch)
        if made.delete_child:
            child_name, uid = names.child_name(name), child_metadata["uid"]
            await self._cluster.delete_batch_job(namespace, child_name, uid)
        # Events before the status that makes them old news: a crash between the two repeats
        # them under the same name, and the API server takes a name once.
        for event in made.events:
            await self._post(event, document)
        if made.status is not None:
            version = metadata.get("resourceVersion", "")
            await self._cluster.write_status(namespace, name, made.status, version)

    async def _tell_refusal(self, document: Document, message: str) -> None:
        """As far as the rights go that are left."""
        refused = build_refused_status(document, message, self._now())
        if refused is None:
            return
        status, event = refused
        metadata = document["metadata"]
        with contextlib.suppress(ForbiddenError, ConflictError):
            await self._cluster.write_status(metadata["namespace"], metadata["name"], status)
        await self._post(event, document)

    async def _post(self, event: Event, document: Document) -> None:
        """A status does not wait for an event that may not be posted. Events go after an hour, so
        each of them is a line of the log, too."""
        metadata = document["metadata"]
        where = (metadata["namespace"], metadata["name"])
        logger.info("%s/%s: %s: %s", *where, event.reason, event.message)
        try:
            await self._cluster.post_event(build_event(event, document, self._now()))
        except ForbiddenError as error:
            logger.warning("an event is not posted: %s", error)


def parse_inference_job(document: Document) -> InferenceJob:
    """The API server's document as the worker's model. Raises ValueError for one that the CRD let
    through and the model refuses: a bug of the CRD, since both are made from the same fields."""
    try:
        return InferenceJob.model_validate(document)
    except ValidationError as error:
        raise ValueError(f"{document['metadata']['name']}: {error}") from error
