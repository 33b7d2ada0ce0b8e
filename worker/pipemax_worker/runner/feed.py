"""Reads ranges in order and keeps the engine's waiting queue filled: memory stays bounded."""

from __future__ import annotations

from typing import Protocol

from pipemax_worker.contract.clock import Clock
from pipemax_worker.contract.request import (
    RecordKey,
    Request,
    RequestProgress,
    StopChecker,
)
from pipemax_worker.dataset.claims import ClaimedRange, RangeClaims
from pipemax_worker.dataset.earlier_results import EarlierResults
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.dataset.reader import MAX_LINE_BYTES, Line
from pipemax_worker.dataset.segments import SegmentWriter
from pipemax_worker.errors import RequestError, StoppedError
from pipemax_worker.prompts.line import read_custom_id
from pipemax_worker.prompts.processor import PreparedLine, PromptProcessor
from pipemax_worker.runner.collector import Collector
from pipemax_worker.runner.range_work import RangeWork

MAX_LINES_PER_FILL = 256
LINES_PER_COPIED_PORTION = 16
"""A portion of copies takes the time of so many lines, or thereabouts."""


class RequestSink(Protocol):
    """The side of the engine that takes requests."""

    @property
    def num_waiting(self) -> int: ...

    def check_request(self, request: Request) -> None:
        """Raises RequestError if ``request`` can never run."""

    def add_request(
        self,
        request: Request,
        stop_checker: StopChecker | None,
        progress: RequestProgress | None = None,
    ) -> None: ...


class ProgressSource(Protocol):
    """What earlier runs have left of unfinished requests (``runner.parking``)."""

    def take(self, request: Request) -> RequestProgress | None:
        """How far the request came, once; None if nothing is known of it."""

    def skip(self, key: RecordKey) -> None:
        """The line has a record already."""


class RequestFeed:
    """Turns the lines of one claimed range after the other into requests.

    look_ahead    bounds the requests that wait in the engine, and with them what was read.
    parked        where requests go on that an earlier run has left unfinished.
    retry         the ledger's, in which the records are written.
    earlier       an earlier job's results, copied before a range's lines are read.
    is_idle       there was no range to be had at the last ``fill``: other workers have the rest, or
                  it is in hand.
    """

    def __init__(
        self,
        store: ObjectStore,
        claims: RangeClaims,
        processor: PromptProcessor,
        collector: Collector,
        clock: Clock,
        look_ahead: int,
        parked: ProgressSource | None = None,
        retry: int = 0,
        earlier: EarlierResults | None = None,
    ) -> None:
        self._store = store
        self._retry = retry
        self._earlier = earlier
        self._claims = claims
        self._processor = processor
        self._collector = collector
        self._clock = clock
        self._look_ahead = look_ahead
        self._parked = parked
        self._work: RangeWork | None = None
        self.is_idle = False

    @property
    def is_exhausted(self) -> bool:
        """Every range is done, by whomever: nothing is left, now or later."""
        return self._work is None and self._claims.is_exhausted

    def close(self) -> None:
        """Nothing is read any more: other workers need not wait for what is not done."""
        self._claims.close()

    def fill(self, sink: RequestSink) -> None:
        """Read on until enough requests wait, or so many lines were read that it is the engine's
        turn again: lines that are refused, or done, leave no request waiting.

        Raises InputError, OutputError, StoppedError.
        """
        self._claims.keep_alive()
        self.is_idle = False
        num_lines = 0
        while num_lines < MAX_LINES_PER_FILL and sink.num_waiting < self._look_ahead:
            work = self._current_work()
            if work is None:
                self.is_idle = True
                return
            if work.is_copying and not work.writer.is_lost:
                self._collector.copy_portion(work)
                num_lines += LINES_PER_COPIED_PORTION
            elif work.writer.is_lost or (line := work.next_line()) is None:
                self._work = None
            else:
                self._take(work, line, sink)
                num_lines += 1

    def _current_work(self) -> RangeWork | None:
        if self._work is None:
            claimed = self._claims.take(self._collector.open_ranges)
            if claimed is not None:
                self._work = self._begin(claimed)
        return self._work

    def _begin(self, claimed: ClaimedRange) -> RangeWork:
        input_range = claimed.input_range
        writer = SegmentWriter.open(
            self._store, input_range.index, claimed.attempt, self._clock, retry=self._retry
        )
        if writer.is_lost:
            raise StoppedError(
                "another run has begun to retry this job's failed requests; the rest of this run's "
                "work is a part of that"
            )
        copies = self._earlier.read_copies(input_range) if self._earlier else None
        work = RangeWork(input_range, writer, copies)
        self._collector.open(work)
        return work

    def _take(self, work: RangeWork, line: Line, sink: RequestSink) -> None:
        number = line.line_number_in_range if work.input_range.start == 0 else None
        # Before anything else, and also for lines that have a record: whether a later line repeats
        # this id must not depend on what an earlier attempt has done.
        repeat = self._find_repeat(work, line, number)
        if work.has_record(line):
            work.skip(line)
            if self._parked:
                self._parked.skip(line.key)
            return
        try:
            if repeat is not None:
                raise repeat
            prepared = self._prepare(line, number, sink)
        except RequestError as error:
            self._collector.add_failed(work, line, error)
            return
        self._collector.expect(work, line, prepared)
        for choice, request in enumerate(prepared.requests):
            progress = self._parked.take(request) if self._parked else None
            sink.add_request(request, prepared.stop_checker(choice), progress)

    @staticmethod
    def _find_repeat(work: RangeWork, line: Line, number: int | None) -> RequestError | None:
        custom_id = read_custom_id(line.data)
        try:
            if custom_id is not None:
                work.duplicates.add(custom_id, line.key, number)
        except RequestError as error:
            return error
        return None

    def _prepare(self, line: Line, number: int | None, sink: RequestSink) -> PreparedLine:
        if line.is_too_long:
            raise RequestError(
                "line_too_long", f"the line is longer than {MAX_LINE_BYTES} bytes; shorten it"
            )
        # Normal records do without a line number: it would need a pass over the file.
        prepared = self._processor.prepare(line.data, line.key, number)
        sink.check_request(prepared.requests[0])
        return prepared
