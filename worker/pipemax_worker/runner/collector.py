"""Turns finished requests and refused lines into records, and closes ranges when they are done."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from pipemax_worker.contract.request import FinishedRequest, RecordKey, Request, StopChecker
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.dataset.line_numbers import LineNumbers
from pipemax_worker.dataset.reader import Line
from pipemax_worker.dataset.records import RecordCounts
from pipemax_worker.errors import RequestError
from pipemax_worker.prompts.line import read_custom_id
from pipemax_worker.prompts.processor import PreparedLine
from pipemax_worker.prompts.response import build_error_record, build_response
from pipemax_worker.runner.done_ranges_totals import totals_of_done
from pipemax_worker.runner.range_work import PendingLine, RangeWork
from pipemax_worker.telemetry.work_totals import WorkTotals


class Collector:
    """The one writer of records. A choice that finishes waits here for its siblings.

    failed_reasons  error code -> how many records of this run carry it.
    found_reasons   the same of records that earlier runs have left in the ranges it took up.
    bytes_done      bytes of the input in ranges that this run has completed.
    num_ranges_done how many these are.
    closed_totals   what they hold.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._line_numbers = LineNumbers()
        self._open: dict[int, RangeWork] = {}
        self._work_of_file: dict[str, list[RangeWork]] = {}
        self._num_succeeded = 0
        self._counts_found = RecordCounts()
        self.failed_reasons: Counter[str] = Counter()
        self.found_reasons: Counter[str] = Counter()
        self.bytes_done = 0
        self.num_ranges_done = 0
        self.closed_totals = WorkTotals()

    @property
    def counts(self) -> RecordCounts:
        """Records of this run, and those of earlier runs in the ranges that it took up. Tokens are
        counted of the latter alone."""
        return self._counts_found + RecordCounts(
            completed=self._num_succeeded, failed=sum(self.failed_reasons.values())
        )

    @property
    def num_pending(self) -> int:
        """Lines whose requests are in the engine."""
        return sum(len(work.pending) for work in self._open.values())

    @property
    def open_ranges(self) -> Collection[int]:
        """Indices of the ranges that this worker has in hand."""
        return self._open.keys()

    def open(self, work: RangeWork) -> None:
        self._open[work.input_range.index] = work
        self._work_of_file.setdefault(work.input_range.file.name, []).append(work)
        self._counts_found += work.writer.counts
        self.found_reasons += work.writer.failed_codes

    def copy_portion(self, work: RangeWork) -> None:
        """Take over the next portion of an earlier job's records. Raises OutputError."""
        self._counts_found += RecordCounts(completed=work.copy_portion())

    def expect(self, work: RangeWork, line: Line, prepared: PreparedLine) -> None:
        """``line``'s requests are about to be given to the engine."""
        work.pending[line.key] = PendingLine(line, prepared)

    def stop_checker(self, key: RecordKey, choice: int) -> StopChecker | None:
        """A fresh one for a request that goes on in another engine."""
        found = self._find(key)
        return None if found is None else found[1].prepared.stop_checker(choice)

    def waiting_choices(self) -> Iterator[tuple[Request, FinishedRequest]]:
        """Choices that have finished while a sibling has not: they have no record yet."""
        for work in self._open.values():
            for pending in work.pending.values():
                requests = {request.choice: request for request in pending.prepared.requests}
                yield from ((requests[one.choice], one) for one in pending.finished)

    def add_failed(self, work: RangeWork, line: Line, error: RequestError) -> None:
        """A line that cannot become a request gets its error record. Raises OutputError."""
        number = self._line_numbers.number_of(line, work.input_range)
        custom_id = read_custom_id(line.data)
        record = build_error_record(line.key, number, custom_id, error)
        self.failed_reasons[error.code] += 1
        work.record(line, record)

    def add_finished(self, finished: Sequence[FinishedRequest]) -> None:
        """Records for the lines whose choices have all finished. Raises OutputError."""
        for one in finished:
            found = self._find(one.key)
            if found is None:
                continue  # its range was lost to a newer attempt
            work, pending = found
            if any(other.choice == one.choice for other in pending.finished):
                continue  # of an earlier turn at this range: lost, then taken over again
            pending.finished.append(one)
            if pending.is_complete:
                del work.pending[one.key]
                self._record(work, pending)

    def flush(self, everything: bool = False) -> None:
        """Write what is due, close complete ranges, forget lost ones. Raises OutputError."""
        for work in list(self._open.values()):
            if everything or work.is_complete:
                work.writer.flush()
            else:
                work.writer.flush_if_due()
            if work.writer.is_lost:
                self._forget(work)
            elif work.is_complete:
                summary = work.writer.summary(work.num_lines)
                self._ledger.finish(summary)
                self.closed_totals += totals_of_done(summary, work.input_range.size_bytes)
                self.bytes_done += work.input_range.size_bytes
                self.num_ranges_done += 1
                self._forget(work)

    @property
    def open_totals(self) -> WorkTotals:
        """Of the ranges that are in hand."""
        return sum((work.totals for work in self._open.values()), WorkTotals())

    @property
    def bytes_in_progress(self) -> int:
        """Bytes of lines that have a record, in ranges that are not done."""
        return sum(work.bytes_done for work in self._open.values())

    def _find(self, key: RecordKey) -> tuple[RangeWork, PendingLine] | None:
        for work in self._work_of_file.get(key.file, ()):
            if (pending := work.pending.get(key)) is not None:
                return work, pending
        return None

    def _record(self, work: RangeWork, pending: PendingLine) -> None:
        record: dict[str, Any] = build_response(
            pending.prepared, pending.finished, created=int(time.time())
        )
        if record["error"] is None:
            self._num_succeeded += 1
        else:
            self.failed_reasons[record["error"]["code"]] += 1
        work.record(pending.line, record)

    def _forget(self, work: RangeWork) -> None:
        del self._open[work.input_range.index]
        self._work_of_file[work.input_range.file.name].remove(work)
