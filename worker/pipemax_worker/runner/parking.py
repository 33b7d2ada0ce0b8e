"""A stop: what is finished is recorded, and what is not is parked for the next run.

The grace is counted from the signal. KV is copied until 80 % of it are over, the stages may take
until 95 % to see their files onto the disk, and the last write is ``park.json``. Whatever fails on
the way costs a recomputation: no record depends on it, and the stages are killed in time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from pipemax_worker.contract.clock import Clock
from pipemax_worker.contract.request import (
    FinishedRequest,
    FinishReason,
    Request,
    RequestProgress,
)
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.errors import PipemaxError, StageDiedError
from pipemax_worker.runner.collector import Collector
from pipemax_worker.runner.park_index import (
    ParkedEntry,
    ParkIndex,
    prompt_digest,
    sampling_digest,
    without_kv,
    write_park_index,
)
from pipemax_worker.runner.parked_requests import ParkedRequests
from pipemax_worker.runner.recovering_engine import RecoveringEngine
from pipemax_worker.runner.restart import RestartablePipeline
from pipemax_worker.runner.signals import StopRequest
from pipemax_worker.telemetry.progress import format_bytes

COPY_SHARE = 0.8
STAGE_SHARE = 0.95


class GraceLimits(msgspec.Struct, frozen=True):
    """Moments on the run's clock: copies end by the one, stages by the other."""

    copies_until: float
    stages_until: float


def derive_limits(start_seconds: float, grace_seconds: float) -> GraceLimits:
    return GraceLimits(
        copies_until=start_seconds + COPY_SHARE * grace_seconds,
        stages_until=start_seconds + STAGE_SHARE * grace_seconds,
    )


class JobParking:
    """Parks one run. Nothing is kept where its NVMe folder does not outlive its container."""

    def __init__(
        self,
        parked: ParkedRequests,
        ledger: Ledger,
        pipeline: RestartablePipeline,
        engine: RecoveringEngine,
        collector: Collector,
        clock: Clock,
        grace_seconds: float,
        say: Callable[[str], None],
        worker: str = "",
    ) -> None:
        self._worker = worker
        self._folder = parked.folder
        self._identity = msgspec.structs.replace(
            parked.identity, ledger_created_at=ledger.job.created_at
        )
        self._parked = parked
        self._pipeline = pipeline
        self._engine = engine
        self._collector = collector
        self._clock = clock
        self._grace_seconds = grace_seconds
        self._say = say

    def park(self, stop: StopRequest) -> None:
        """Park within the grace. The pipeline is over then. Never raises: a stop is a stop."""
        if self._folder is None or not self._folder.is_lasting:
            return
        start_seconds = self._clock.now()
        limits = derive_limits(stop.received_seconds or start_seconds, self._grace_seconds)
        try:
            index = self._end_pipeline(limits)
            if index.geometry is None:
                _remove_kv_files(self._folder.path)
            if index.entries:
                write_park_index(self._folder, index)
                self._say(_describe(index, self._clock.now() - start_seconds))
        except Exception as error:
            self._folder.park_index.unlink(missing_ok=True)
            self._say(f"nothing is parked, and the next run computes it again: {error}")

    def _end_pipeline(self, limits: GraceLimits) -> ParkIndex:
        """Copy what is worth it, end the stages, and say what is left for the next run."""
        session = self._pipeline.session
        entries: list[ParkedEntry] = []
        if self._pipeline.is_open:
            try:
                entries = self._copy_kv(limits.copies_until)
            except PipemaxError as error:
                self._say(f"parking ends early: {error}")
            entries += self._parked.remaining(session.engine)
            try:
                seconds_left = limits.stages_until - self._clock.now()
                session.engine.executor.park(max(0.0, seconds_left))
            except PipemaxError as error:
                self._say(f"the KV is not kept: {error}")
                entries = [without_kv(entry) for entry in entries]
        names = {(entry.progress.key, entry.progress.choice) for entry in entries}
        entries += [entry for entry in self._outputs() if _name(entry) not in names]
        entries = [e for e in entries if e.progress.output_token_ids or e.progress.nvme_slots]
        has_kv = any(entry.progress.nvme_slots for entry in entries)
        geometry = session.geometry if has_kv else None
        return ParkIndex(self._identity, geometry, tuple(entries), self._worker)

    def _copy_kv(self, until: float) -> list[ParkedEntry]:
        engine = self._pipeline.session.engine
        if not engine.settle(until):
            raise StageDiedError("messages in flight have not ended in time")
        self._record(engine.take_finished())
        return [_build_entry(one.request, one.progress) for one in engine.park(until)]

    def _record(self, finished: Iterable[FinishedRequest]) -> None:
        """These ended by the last messages. A store that fails now must not hinder the parking."""
        try:
            self._collector.add_finished(list(finished))
            self._collector.flush(everything=True)
        except PipemaxError as error:
            self._say(f"the last records are not written, and computed again: {error}")

    def _outputs(self) -> list[ParkedEntry]:
        """Of all that the engine knows, wherever its KV is, and of choices that have finished and
        whose siblings have not."""
        known = {(one.key, one.choice): one for one in self._engine.progress()}
        return [
            without_kv(_build_entry(request, progress))
            for request in self._engine.unfinished_requests()
            if (progress := known.get((request.key, request.choice))) is not None
        ] + [
            _build_entry(request, _reopen(finished))
            for request, finished in self._collector.waiting_choices()
            if finished.finish_reason is not FinishReason.ERROR
        ]


def _build_entry(request: Request, progress: RequestProgress) -> ParkedEntry:
    return ParkedEntry(progress, prompt_digest(request), sampling_digest(request))


def _reopen(finished: FinishedRequest) -> RequestProgress:
    """All outputs but the last: it is sampled again, and ends the text for the same reason."""
    return RequestProgress(
        key=finished.key,
        choice=finished.choice,
        output_token_ids=finished.token_ids[:-1],
        logprobs=(finished.logprobs or ())[:-1],
    )


def _name(entry: ParkedEntry) -> tuple[object, int]:
    return entry.progress.key, entry.progress.choice


def _remove_kv_files(folder: Path) -> None:
    for path in folder.glob("stage-*"):
        path.unlink(missing_ok=True)


def _describe(index: ParkIndex, seconds: float) -> str:
    slots = {slot for entry in index.entries for slot in entry.progress.nvme_slots}
    num_bytes = len(slots) * index.geometry.block_bytes() if index.geometry else 0
    num_tokens = sum(entry.progress.num_computed_tokens for entry in index.entries)
    num_outputs = sum(len(entry.progress.output_token_ids) for entry in index.entries)
    return (
        f"parked {len(index.entries)} unfinished requests in {seconds:.1f} s: the KV of "
        f"{num_tokens} tokens ({format_bytes(num_bytes)}) and {num_outputs} output tokens; "
        "the next run on this machine goes on there"
    )
