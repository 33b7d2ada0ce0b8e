"""The folders that jobs leave on nodes' disks: that they go. The only writer of the records and of
the sweeps' Jobs (docs/decisions/0008-nvme-sweeps.md).

A job is recorded before its first pod can exist (``note``, from the reconciler). Everything else is
done by ``turn``, from what is, as often as one likes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import aiohttp

from pipemax_operator import job_policy
from pipemax_operator.api_server import ConflictError, ForbiddenError, NotLeadingError
from pipemax_operator.conditions import final_condition
from pipemax_operator.disk_times import DiskTimes
from pipemax_operator.folder_client import FolderClient
from pipemax_operator.folder_notes import RecordStore
from pipemax_operator.manifests.sweep_job import build_sweep_job, parse_sweep_job
from pipemax_operator.nvme_records import NvmeRecord
from pipemax_operator.observation import parse_pod
from pipemax_operator.observed import ObservedPod
from pipemax_operator.settings import OperatorSettings
from pipemax_operator.sweep_metrics import SweepMetrics
from pipemax_operator.sweeps import (
    Disk,
    ObservedSweep,
    Sweep,
    SweepReport,
    count_waiting,
    is_forgettable,
    plan_sweeps,
    read_reports,
    waiting_disks,
)
from pipemax_operator.wake_up import wait_for_word

Document = dict[str, Any]

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1800.0
"""So often all records are compared with the API server: an event may have been missed."""

_BUSY_SECONDS = 15.0
_FAILED_SECONDS = 300.0
_ERROR_SECONDS = 10.0
_PATIENT_SECONDS = 60.0
_EAGER_SECONDS = 120.0
_ERRORS = (
    *(ForbiddenError, ConflictError, NotLeadingError),
    *(TimeoutError, aiohttp.ClientError, RuntimeError),
)


class NvmeSweeper:
    """``run`` while this operator leads; ``turn`` is one turn of it."""

    def __init__(
        self,
        client: FolderClient,
        settings: OperatorSettings,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        metrics: SweepMetrics,
    ) -> None:
        self._client = client
        self._settings = settings
        self._now = now
        self._monotonic = monotonic
        self._metrics = metrics
        self._records = RecordStore(client, settings)
        self._times = DiskTimes(monotonic)
        self._suspects: set[str] = set()
        self._under_way: dict[Disk, str] = {}
        self._held: set[str] = set()
        self._checked_seconds = self._started_seconds = monotonic()
        self._wake = asyncio.Event()

    # --- what the reconciler tells

    async def note(self, inference_job: Document, pods: Sequence[Document]) -> None:
        metadata = inference_job["metadata"]
        nvme = (inference_job["spec"].get("kvCache") or {}).get("nvme") or {}
        if (root := nvme.get("hostPath")) is None:
            return
        new = NvmeRecord(metadata["uid"], metadata["namespace"], metadata["name"], root)
        conditions = (inference_job.get("status") or {}).get("conditions") or ()
        try:
            await self._load()
            is_known = self._records.get(new.uid) is not None
            if not is_known and not job_policy.may_name(root, new.namespace, self._settings):
                return  # it gets no pods; one that somebody made in its name lets no root in there
            await self._note(new, map(parse_pod, pods), final_condition(conditions) is not None)
        except _ERRORS as error:
            what = "its NVMe folder is not recorded, and may be left behind"
            logger.warning("%s/%s: %s: %s", new.namespace, new.name, what, error)

    async def _note(self, new: NvmeRecord, pods: Iterable[ObservedPod], is_final: bool) -> None:
        """Of a job that has ended, pods that linger count: those that are over were recorded."""
        if is_final and self._records.get(new.uid) is None:
            new = new.ended(self._now())
        nodes = [
            pod.node
            for pod in pods
            if pod.node and (pod.phase in ("Pending", "Running") or not is_final)
        ]
        if nodes or not is_final:
            await self._records.change(new, lambda record: record.with_nodes(nodes))
        if is_final:
            self.suspect(new.namespace, new.name)
            if nodes:
                self._wake.set()

    def suspect(self, namespace: str, name: str) -> None:
        for record in self._records.live():
            if (record.namespace, record.name) == (namespace, name):
                self._suspects.add(record.uid)
                self._wake.set()

    # --- the loop

    async def run(self) -> None:
        """Until cancelled. Begins anew: another operator may have led until now."""
        self._records.unload()
        try:
            await self._turn_for_ever()
        finally:
            self._metrics.show(0, 0)

    async def _turn_for_ever(self) -> None:
        while True:
            self._wake.clear()
            try:
                pause_seconds = await self.turn()
            except _ERRORS as error:
                logger.warning("NVMe folders of ended jobs are not swept: %s", error)
                pause_seconds = _ERROR_SECONDS
            await wait_for_word(self._wake, pause_seconds)

    async def turn(self) -> float:
        """Look, then do what is due; the seconds until there may be more to do."""
        await self._load()
        if self._monotonic() - self._checked_seconds > CHECK_SECONDS:
            self._checked_seconds = self._monotonic()
            self._suspects |= {record.uid for record in self._records.live()}
            if num_waiting := count_waiting(self._records.all()):
                logger.info("folders of ended jobs that wait on nodes' disks: %d", num_waiting)
        await self._check_suspects()
        if self._under_way or self._plan():
            await self._collect()
            await self._start()
        for record in self._records.all():
            if is_forgettable(record, self._now()):
                await self._records.forget(record)
        self._metrics.show(count_waiting(self._records.all()), len(self._held))
        return self._pause_seconds()

    # --- the parts of a turn

    async def _load(self) -> None:
        if await self._records.load():
            self._suspects = {record.uid for record in self._records.live()}

    async def _check_suspects(self) -> None:
        for uid in sorted(self._suspects):
            record = self._records.get(uid)
            if record is not None and record.ended_at is None and await self._is_over(record):
                await self._records.end(record, self._now())
            self._suspects.discard(uid)

    async def _is_over(self, record: NvmeRecord) -> bool:
        try:
            return await self._client.is_over(record.namespace, record.name, record.uid)
        except ForbiddenError:
            return False  # in a namespace that another operator looks after

    async def _collect(self) -> None:
        """What has become of the sweeps: which there are is for the API server to say."""
        found = [parse_sweep_job(one) for one in await self._client.list_sweep_jobs()]
        sweeps = [one for one in found if one is not None]
        over = [one for one in sweeps if one.is_over]
        reports = read_reports(await self._client.list_sweep_pods()) if over else {}
        for sweep in over:
            await self._finish(sweep, reports.get(sweep.name))
        self._under_way = {one.sweep.disk: one.name for one in sweeps if not one.is_over}
        self._tell_held([one for one in sweeps if one.is_held])

    def _tell_held(self, held: Sequence[ObservedSweep]) -> None:
        """Once of each: nobody is told by a pod that is never made."""
        for one in held:
            if one.name not in self._held:
                logger.warning(
                    "sweep %s of %s on %s is suspended, as Kueue does with every Job where it "
                    "manages jobs without a queue: exempt namespace %s in its "
                    "managedJobsNamespaceSelector, or set nvmeSweeps.queueName of the chart",
                    *(one.name, one.sweep.disk.root, one.sweep.disk.node),
                    self._settings.system_namespace,
                )
        self._held = {one.name for one in held}

    async def _finish(self, observed: ObservedSweep, report: SweepReport | None) -> None:
        """Take what it says, then let it go: in this order nothing is lost by a crash."""
        disk = observed.sweep.disk
        self._times.note_look(disk)
        self._metrics.note_end(report)
        if report is None:
            logger.warning("sweep %s of %s on %s failed", observed.name, disk.root, disk.node)
            self._times.wait(disk, _FAILED_SECONDS)
        else:
            await self._take(disk, report)
        await self._client.delete_sweep_job(observed.name)

    async def _take(self, disk: Disk, report: SweepReport) -> None:
        for uid in report.removed:
            if (record := self._records.get(uid)) is not None:
                await self._records.change(record, lambda one: one.without_node(disk.node))
        for uid, reason in report.failed:
            logger.warning("%s/%s on %s stays: %s", disk.root, uid, disk.node, reason)
        if report.failed or report.busy:
            self._times.wait(disk, _FAILED_SECONDS if report.failed else _BUSY_SECONDS)
        for found in report.left:
            await self._adopt(NvmeRecord(*found, disk.root), disk.node)

    async def _adopt(self, found: NvmeRecord, node: str) -> None:
        """A folder that a sweep has seen. Of a job that lives and is not recorded, the reconciler
        will tell."""
        is_known = self._records.get(found.uid) is not None
        is_over = not is_known and await self._is_over(found)
        if is_known or is_over:
            new = found.ended(self._now()) if is_over else found
            await self._records.change(new, lambda one: one.with_nodes([node]))

    async def _start(self) -> None:
        for sweep in self._plan():
            document = build_sweep_job(sweep, self._settings, self._now().isoformat())
            await self._client.apply(document)
            self._under_way[sweep.disk] = document["metadata"]["name"]
            self._started_seconds = self._monotonic()

    def _plan(self) -> tuple[Sweep, ...]:
        records = self._records.all()
        live = (record for record in records if record.ended_at is None)
        disks = {Disk(node, record.root) for record in live for node in record.nodes}
        stale = self._times.stale(disks)
        return plan_sweeps(records, self._under_way, stale, self._times.is_due)

    def _pause_seconds(self) -> float:
        """A node that is lost may be so for days: its sweep is not asked for all the time."""
        if self._under_way and self._monotonic() - self._started_seconds < _EAGER_SECONDS:
            return self._settings.poll_seconds
        disks = waiting_disks(self._records.all())
        waits = [self._times.seconds_left(disk) for disk in disks if disk not in self._under_way]
        return max(0.1, min([*waits, _PATIENT_SECONDS]))
