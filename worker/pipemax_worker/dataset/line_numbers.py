"""Finds a line's number in its file, only for those who ask: error records name it.

A range does not know how many lines come before it; counting them takes a pass over the file up to
there. Counts are kept at the places asked for, so that asking in order costs one pass in all.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import BinaryIO

from pipemax_worker.dataset.inputs import InputFile
from pipemax_worker.dataset.ranges import InputRange
from pipemax_worker.dataset.reader import Line, named_read_errors, open_text_bytes

_CHUNK_BYTES = 1024 * 1024


class LineNumbers:
    """Line numbers in files, from 1. Memory: one pair of numbers a range asked about."""

    def __init__(self) -> None:
        self._checkpoints: dict[str, tuple[list[int], list[int]]] = {}
        self._lines_before: dict[int, int] = {}

    def number_of(self, line: Line, input_range: InputRange) -> int:
        """The number of ``line``, which was read from ``input_range``, in its file.

        Raises InputError if the file cannot be read.
        """
        if input_range.start == 0:
            return line.line_number_in_range
        if (before := self._lines_before.get(input_range.index)) is None:
            before = self.line_number_of(input_range.file, line.key.offset)
            before -= line.line_number_in_range
            self._lines_before[input_range.index] = before
        return before + line.line_number_in_range

    def line_number_of(self, file: InputFile, offset: int) -> int:
        """One more than the number of line ends before ``offset``. Raises InputError."""
        offsets, counts = self._checkpoints.setdefault(file.name, ([0], [0]))
        nearest = bisect_right(offsets, offset) - 1
        start, count = offsets[nearest], counts[nearest]
        if start < offset:
            with named_read_errors(file), open_text_bytes(file, offset) as stream:
                stream.seek(start)
                count += _count_line_ends(stream, offset - start)
            offsets.insert(nearest + 1, offset)
            counts.insert(nearest + 1, count)
        return count + 1


def _count_line_ends(stream: BinaryIO, num_bytes: int) -> int:
    count = 0
    while num_bytes > 0:
        data = stream.read(min(num_bytes, _CHUNK_BYTES))
        if not data:
            break
        count += data.count(b"\n")
        num_bytes -= len(data)
    return count
