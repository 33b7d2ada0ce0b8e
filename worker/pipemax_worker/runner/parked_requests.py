"""What a stopped run of this job has parked on this machine, for this run's requests to take up."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import TracebackType

import msgspec

from pipemax_worker.contract.request import RecordKey, Request, RequestProgress
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.engine.engine import Engine
from pipemax_worker.errors import KVTierError, StoppedError
from pipemax_worker.pipeline.gpus import gpu_memory_bytes
from pipemax_worker.pipeline.settings import build_geometry
from pipemax_worker.runner.nvme_folder import RunFolder
from pipemax_worker.runner.park_index import (
    ParkedEntry,
    ParkIdentity,
    ParkIndex,
    find_geometry_fault,
    find_identity_fault,
    give_back_park_index,
    take_park_index,
    without_kv,
)
from pipemax_worker.runner.preparation import PreparedJob, fingerprint_of
from pipemax_worker.runner.session import Session
from pipemax_worker.runner.sizing import SessionSettings

OpenSession = Callable[[SessionSettings], contextlib.AbstractContextManager[Session]]


def identify_job(
    prepared: PreparedJob, settings: SessionSettings, ledger: Ledger | None
) -> ParkIdentity:
    """What must be the same for parked requests to be this job's. Without a ledger none is."""
    fingerprint = fingerprint_of(prepared)
    return ParkIdentity(
        job=fingerprint.digest,
        model=fingerprint.digests["model"],
        ledger_created_at="" if ledger is None else ledger.job.created_at,
        dtype=settings.pipeline.dtype,
        kv_dtype=settings.pipeline.kv_dtype,
    )


class ParkedRequests:
    """The entries of the ``park.json`` in ``folder``, each given out once; none without one.

    Outputs are used whatever becomes of the KV; KV only by the first pipeline that is opened, and
    only if that pipeline is of the same shape and all its stages can adopt their files. A context:
    a stop before anything was done leaves all as it was found.
    """

    def __init__(
        self, folder: RunFolder | None, identity: ParkIdentity, say: Callable[[str], None]
    ) -> None:
        self.folder = folder
        self.identity = identity
        self._say = say
        self._index: ParkIndex | None = None
        self._is_discarded = False
        self._session: Session | None = None
        self._entries: dict[tuple[RecordKey, int], ParkedEntry] = {}
        self._choices: dict[RecordKey, list[int]] = {}

    def __enter__(self) -> ParkedRequests:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        is_untouched = self._session is None or self._session.engine.statistics.num_steps == 0
        if self.folder is None or self._is_discarded or self.folder.park_index.exists():
            return
        if is_untouched and isinstance(error, StoppedError):
            give_back_park_index(self.folder)

    def load(self) -> None:
        """Use up what lies in the folder; what is not this job's is discarded with a word."""
        if self.folder is None:
            return
        try:
            index = take_park_index(self.folder)
            fault = None if index is None else find_identity_fault(index, self.identity)
        except (KVTierError, OSError) as error:
            index, fault = None, str(error)
        if fault is not None:
            self._is_discarded = True
            self._say(f"parked requests are discarded: {fault}")
        elif index is not None:
            self._index = index
            for entry in index.entries:
                key, choice = entry.progress.key, entry.progress.choice
                self._entries[key, choice] = entry
                self._choices.setdefault(key, []).append(choice)

    @property
    def parked_by(self) -> str:
        """The worker that has parked what is taken up here, whatever its index was; empty if there
        is none. It wrote its last word before it ended, so nobody need wait for its silence."""
        return "" if self._index is None else self._index.worker

    # --- the pipeline that adopts the KV

    @contextlib.contextmanager
    def adopting(self, settings: SessionSettings, open_session: OpenSession) -> Iterator[Session]:
        """Open a session with ``settings``; the first one adopts the parked KV."""
        adopts = self._session is None and self._fits(settings)
        with open_session(_with_adoption(settings, adopts)) as session:
            if adopts:
                self._hand_over(session)
            self._session = session
            yield session

    def _fits(self, settings: SessionSettings) -> bool:
        if self._index is None or not any(e.progress.nvme_slots for e in self._entries.values()):
            return False
        fault = find_geometry_fault(
            self._index, build_geometry(settings.pipeline, gpu_memory_bytes())
        )
        if fault is not None:
            self._discard_kv(fault)
        return fault is None

    def _hand_over(self, session: Session) -> None:
        for stage in session.stages:
            if stage.adoption_fault is not None:
                self._discard_kv(stage.adoption_fault)
                return
        session.engine.adopt(entry.progress for entry in self._entries.values())
        num_tokens = sum(one.progress.num_computed_tokens for one in self._entries.values())
        self._say(
            f"  {len(self._entries)} requests go on where the last run was stopped; "
            f"the KV of {num_tokens} tokens is taken up"
        )

    def _discard_kv(self, fault: str) -> None:
        self._say(f"  parked KV is discarded, and computed again: {fault}")
        self._entries = {name: without_kv(entry) for name, entry in self._entries.items()}

    # --- the requests that go on

    def take(self, request: Request) -> RequestProgress | None:
        """How far the request came, once; None if nothing is known of it."""
        entry = self._entries.pop((request.key, request.choice), None)
        if entry is None:
            return None
        if not entry.belongs_to(request):
            self._release(entry)
            return None
        return entry.progress

    def skip(self, key: RecordKey) -> None:
        """The line has a record already, from somebody else."""
        for choice in self._choices.pop(key, ()):
            entry = self._entries.pop((key, choice), None)
            if entry is not None:
                self._release(entry)

    def remaining(self, engine: Engine) -> list[ParkedEntry]:
        """Those that nobody has taken, with what ``engine`` still has of their KV."""
        still_adopted = engine.scheduler.parking.still_adopted
        return [
            msgspec.structs.replace(entry, progress=still_adopted(entry.progress))
            for entry in self._entries.values()
        ]

    def _release(self, entry: ParkedEntry) -> None:
        if self._session is not None:
            self._session.engine.scheduler.parking.release(entry.progress)


def _with_adoption(settings: SessionSettings, adopts: bool) -> SessionSettings:
    pipeline = msgspec.structs.replace(settings.pipeline, adopts_nvme_files=adopts)
    return msgspec.structs.replace(settings, pipeline=pipeline)
