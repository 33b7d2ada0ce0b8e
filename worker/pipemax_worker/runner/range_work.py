"""One claimed range on its way: its lines still to read, its requests in flight, its chain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipemax_worker.contract.request import FinishedRequest, RecordKey
from pipemax_worker.dataset.ranges import InputRange
from pipemax_worker.dataset.reader import Line, RangeReader
from pipemax_worker.dataset.segments import SegmentWriter
from pipemax_worker.prompts.line import DuplicateIds
from pipemax_worker.prompts.processor import PreparedLine
from pipemax_worker.telemetry.work_totals import WorkTotals


@dataclass
class PendingLine:
    """A line in the engine: what it asked for, and the choices that have finished."""

    line: Line
    prepared: PreparedLine
    finished: list[FinishedRequest] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        return len(self.finished) == len(self.prepared.requests)


class RangeWork:
    """``num_lines`` counts what was read so far; the range is finished when all of it was read,
    nothing is pending, and the chain covers every line.

    copies   records of an earlier job's output, portion by portion: they come into the chain before
             the first line is read.
    """

    def __init__(
        self,
        input_range: InputRange,
        writer: SegmentWriter,
        copies: Iterator[list[dict[str, Any]]] | None = None,
    ) -> None:
        self.input_range = input_range
        self.writer = writer
        self.duplicates = DuplicateIds()
        self.pending: dict[RecordKey, PendingLine] = {}
        self.num_lines = 0
        self._bytes_of_lines = 0
        self._bytes_with_record = 0
        self.is_read = False
        self._lines: Iterator[Line] = iter(RangeReader(input_range))
        self._copies = copies

    @property
    def is_copying(self) -> bool:
        """Records of an earlier job may be left to copy."""
        return self._copies is not None

    def copy_portion(self) -> int:
        """Hand the next portion of copies to the chain, but for lines that have a record; how many
        they were. Raises OutputError."""
        portion = next(self._copies, None) if self._copies else None
        if portion is None:
            self._copies = None
            return 0
        missing = [one for one in portion if not self.writer.has_record(one["pipemax"]["offset"])]
        for record in missing:
            self.writer.append(record)
        return len(missing)

    def next_line(self) -> Line | None:
        """The next line of the range; None once it is read. Raises InputError."""
        line = next(self._lines, None)
        if line is None:
            self.is_read = True
            return None
        self.num_lines += 1
        self._bytes_of_lines += len(line.data) + 1
        return line

    def has_record(self, line: Line) -> bool:
        """Whether an earlier attempt has left a record for ``line``."""
        return self.writer.has_record(line.key.offset)

    def skip(self, line: Line) -> None:
        """``line`` has a record from an earlier attempt."""
        self._bytes_with_record += len(line.data) + 1

    def record(self, line: Line, record: dict[str, Any]) -> None:
        """Hand a line's record to the chain. Raises OutputError."""
        self._bytes_with_record += len(line.data) + 1
        self.writer.append(record)

    @property
    def bytes_done(self) -> int:
        """Bytes on disk whose lines have a record. Of a compressed file, whose lines' share of it
        is not known: none until all of it is done."""
        if self.input_range.end is None:
            return 0
        return min(self._bytes_with_record, self.input_range.size_bytes)

    @property
    def totals(self) -> WorkTotals:
        """How far the range is. Lines of a compressed file count as read once all of it is."""
        size_bytes, counts = self.input_range.size_bytes, self.writer.counts
        is_measured = self.is_read or self.input_range.end is not None
        bytes_read = size_bytes if self.is_read else min(self._bytes_of_lines, size_bytes)
        return WorkTotals(
            num_done=counts.num_records + self.writer.num_buffered,
            num_failed=counts.failed,
            prompt_tokens=counts.prompt_tokens,
            generated_tokens=counts.completion_tokens,
            bytes_done=self.bytes_done,
            num_read=self.num_lines if is_measured else 0,
            bytes_read=bytes_read if is_measured else 0,
        )

    @property
    def is_complete(self) -> bool:
        """All lines are read and have a record, though perhaps not yet a written one."""
        return self.is_read and not self.pending
