"""The operator's parts put together, and what each does while others lead and while this one does.

Every operator follows the watches and keeps the cache; the one that holds the lease reconciles.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import Any

import aiohttp

from pipemax_operator import names
from pipemax_operator.api_server import ApiServer, ConflictError, ForbiddenError
from pipemax_operator.audit import Audit, Findings
from pipemax_operator.cached_cluster import CachedCluster
from pipemax_operator.folder_client import KubernetesFolderClient
from pipemax_operator.health import Vitals, find_unreadiness
from pipemax_operator.leadership import Leadership, LeaseLeadership, LeaseTiming, Standalone
from pipemax_operator.metrics import OperatorMetrics
from pipemax_operator.nvme_sweeper import NvmeSweeper
from pipemax_operator.object_cache import ObjectCache, job_of
from pipemax_operator.pages import Pages
from pipemax_operator.process_settings import ProcessSettings
from pipemax_operator.reconciler import Reconciler
from pipemax_operator.requeue import Key, Requeue
from pipemax_operator.settings import OperatorSettings

Document = dict[str, Any]

logger = logging.getLogger(__name__)

_AUDIT_RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
_CONFLICT_SECONDS = 0.2
_RESTART_SECONDS = 5.0
_UNREACHABLE = (TimeoutError, aiohttp.ClientError, RuntimeError, ConflictError)


class OperatorService:
    """What lives as long as the process. ``changed`` is the watches' way in."""

    def __init__(
        self, api: ApiServer, settings: ProcessSettings, workers: OperatorSettings
    ) -> None:
        self.metrics = OperatorMetrics()
        self._api, self._settings = api, settings
        api.count = self._count_call
        self.cache = ObjectCache()
        self.audit = Audit(api, self.cache, settings.namespaces, time.monotonic)
        self.leadership = _leadership(api, settings)
        api.fence = self.leadership.fence
        self._cluster = CachedCluster(api, self.cache)
        self._sweeper = self._build_sweeper(workers)
        self._reconciler = Reconciler(self._cluster, workers, _utc_now, self.metrics, self._sweeper)
        self.requeue = Requeue(self._reconcile, time.monotonic)
        self.metrics.follow(lambda: self.leadership.is_leading, lambda: len(self.requeue))
        self._pages = Pages(
            self.metrics.exposition, lambda: find_unreadiness(self.vitals()), settings.metrics_port
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._lead_task: asyncio.Task[None] | None = None
        self._audit_lock = asyncio.Lock()
        self._answered_at: float | None = None
        self._last_error = ""

    async def start(self) -> None:
        """Raises OSError where the port of the pages is taken."""
        if self._settings.metrics_port:
            await self._pages.start()
        self._tasks = [asyncio.create_task(self.leadership.run())]
        self._tasks.append(asyncio.create_task(self._audit_for_ever()))
        self._lead_task = asyncio.create_task(self._lead_for_ever())

    async def close(self) -> None:
        """Stop working, then leave the lease to others: in this order nothing is done twice."""
        if self._lead_task is not None:
            self._tasks.insert(0, self._lead_task)
        for task in self._tasks:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self.leadership.release()
        await self._pages.close()
        await self._cluster.close()
        await self._api.close()

    def changed(self, event: str | None, document: Document, resource: str) -> None:
        """A watch has told of an InferenceJob or one of its children. ``event``: None for one of
        a list."""
        self.metrics.note_event(resource)
        self.audit.told(document)
        keep = self.cache.remove if event == "DELETED" else self.cache.store
        # What our own writes have taught the cache already is no news.
        if keep(document) and (job := job_of(document)):
            self.requeue.now((document["metadata"].get("namespace", ""), job))

    def vitals(self) -> Vitals:
        now = time.monotonic()
        age = None if self._answered_at is None else now - self._answered_at
        is_alone = not self._settings.lease
        return Vitals(
            queue_idle_seconds=self.requeue.idle_seconds(),
            behind_seconds=self.audit.behind_seconds(),
            has_listed=self.audit.last_success is not None,
            answer_age_seconds=age,
            max_answer_age_seconds=self._settings.audit_seconds + 60 if is_alone else 30.0,
            last_error=self._last_error,
        )

    # --- leading

    async def _lead_for_ever(self) -> None:
        """Reconcile while leading. What others did until then is listed first."""
        while True:
            await self.leadership.wait(True)
            work = asyncio.create_task(self._work())
            lost = asyncio.create_task(self.leadership.wait(False))
            try:
                await asyncio.wait((work, lost), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (work, lost):
                    task.cancel()
                said, _ = await asyncio.gather(work, lost, return_exceptions=True)
                self.metrics.forget_all()
            if isinstance(said, Exception):
                logger.error("the work ended, and is begun again: %s", said, exc_info=said)
                await asyncio.sleep(_RESTART_SECONDS)

    async def _work(self) -> None:
        await self._audit_until_done()
        for key in self.cache.jobs():
            self.requeue.now(key)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.requeue.run())
            if self._sweeper is not None:
                group.create_task(self._sweeper.run())

    def _build_sweeper(self, workers: OperatorSettings) -> NvmeSweeper | None:
        if not workers.system_namespace:
            return None
        client = KubernetesFolderClient(self._api, workers)
        return NvmeSweeper(client, workers, _utc_now, time.monotonic, self.metrics.sweeps)

    async def _reconcile(self, key: Key) -> float | None:
        try:
            return await self._reconciler.reconcile(*key)
        except ConflictError:
            await self._cluster.refresh(*key)
            return _CONFLICT_SECONDS

    # --- auditing

    async def _audit_for_ever(self) -> None:
        """Once at the start, whoever leads: a follower is ready too, and knows all jobs."""
        while True:
            await self._audit_until_done()
            await asyncio.sleep(self._settings.audit_seconds)

    async def _audit_until_done(self) -> None:
        async with self._audit_lock:
            findings = await self._run_audit()
        self._last_error = ""
        self.metrics.note_missed(findings.num_missed)
        for key in findings.stale:
            self.requeue.now(key)

    async def _run_audit(self) -> Findings:
        failures = 0
        while True:
            try:
                return await self.audit.run()
            except ForbiddenError as error:
                self._last_error = str(error)
                logger.error("a right lacks, and no job can be looked after without it: %s", error)
            except _UNREACHABLE as error:
                self._last_error = str(error) or repr(error)
                logger.warning("the lists are tried again: %s", self._last_error)
            await asyncio.sleep(_AUDIT_RETRY_SECONDS[min(failures, 4)])
            failures += 1

    def _count_call(self, verb: str, resource: str, code: int) -> None:
        self.metrics.note_call(verb, resource, code)
        if code:
            self._answered_at = time.monotonic()


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _leadership(api: ApiServer, settings: ProcessSettings) -> Leadership:
    if not settings.lease:
        return Standalone()
    namespace, name = settings.lease.split("/")
    timing = LeaseTiming.of_duration(settings.lease_seconds)
    return LeaseLeadership(api, namespace, name, settings.identity, time.monotonic, timing)


WATCHED = {
    names.PLURAL: names.KIND,
    "jobs": "Job",
    "pods": "Pod",
}
"""Resource -> kind: kopf's events of lists name none."""
