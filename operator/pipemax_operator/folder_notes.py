"""What the reconciler tells of jobs' folders on nodes' disks, and the store of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Protocol

from pipemax_operator.folder_client import FolderClient
from pipemax_operator.nvme_records import NvmeRecord, build_record, parse_record, record_name
from pipemax_operator.settings import OperatorSettings

Document = dict[str, Any]


class FolderNotes(Protocol):
    """Called before the job's pods are asked for: what a pod leaves then has a record."""

    async def note(self, inference_job: Document, pods: Sequence[Document]) -> None:
        """How the job stands. A record that cannot be written holds no job up."""

    def suspect(self, namespace: str, name: str) -> None:
        """The job seems to be gone, or has ended."""


class NoFolderNotes:
    """Where nothing is swept."""

    async def note(self, inference_job: Document, pods: Sequence[Document]) -> None:
        return

    def suspect(self, namespace: str, name: str) -> None:
        return


class RecordStore:
    """The records, in memory and as ConfigMaps. ``load`` first. Methods raise what the client does,
    and leave all as it was then."""

    def __init__(self, client: FolderClient, settings: OperatorSettings) -> None:
        self._client = client
        self._settings = settings
        self._records: dict[str, NvmeRecord] = {}
        self._is_loaded = False
        self._lock = asyncio.Lock()

    async def load(self) -> bool:
        """What earlier operators have written, once; True if it was read now."""
        async with self._lock:
            if self._is_loaded:
                return False
            found = map(parse_record, await self._client.list_records())
            self._records = {record.uid: record for record in found if record is not None}
            self._is_loaded = True
            return True

    def unload(self) -> None:
        """Another operator may write them until the next ``load``."""
        self._is_loaded = False

    def all(self) -> Sequence[NvmeRecord]:
        return tuple(self._records.values())

    def live(self) -> Sequence[NvmeRecord]:
        """Of jobs that may go on, as far as is known."""
        return tuple(record for record in self._records.values() if record.ended_at is None)

    def get(self, uid: str) -> NvmeRecord | None:
        return self._records.get(uid)

    async def change(self, new: NvmeRecord, change: Callable[[NvmeRecord], NvmeRecord]) -> None:
        """Write ``change`` of the record of that UID, or of ``new`` where there is none."""
        async with self._lock:
            before = self._records.get(new.uid)
            after = change(before or new)
            if after != before:
                await self._client.apply(build_record(after, self._settings))
                self._records[after.uid] = after

    async def end(self, record: NvmeRecord, now: datetime) -> None:
        await self.change(record, lambda one: one.ended(now))

    async def forget(self, record: NvmeRecord) -> None:
        async with self._lock:
            await self._client.delete_record(record_name(record.uid, self._settings))
            del self._records[record.uid]
