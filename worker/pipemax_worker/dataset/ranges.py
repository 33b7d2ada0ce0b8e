"""Cuts the input into byte ranges by arithmetic: no pass over it, no list of millions.

A line belongs to the range in which its first byte lies; who reads a range finds its lines by
itself (``reader``). Pure.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import overload

import msgspec

from pipemax_worker.dataset.inputs import InputFile

MIN_RANGE_BYTES = 64 * 1024
MAX_RANGE_BYTES = 16 * 1024 * 1024
_WANTED_RANGES = 1024


class InputRange(msgspec.Struct, frozen=True):
    """Bytes ``[start, end)`` of one file; ``end`` is None for a compressed file, which is one range
    of unknown length, its offsets those of the decompressed text. ``index`` counts over all files.
    """

    index: int
    file: InputFile
    start: int
    end: int | None

    @property
    def size_bytes(self) -> int:
        """Bytes on disk that this range covers."""
        return self.file.size_bytes if self.end is None else self.end - self.start


class RangePlan(Sequence[InputRange]):
    """All ranges of the input in order, each computed when asked for: O(files) memory."""

    def __init__(self, files: Sequence[InputFile], range_bytes: int) -> None:
        if range_bytes < 1:
            raise ValueError(f"range_bytes must be positive, not {range_bytes}")
        self._files = tuple(files)
        self._range_bytes = range_bytes
        counts = (count_ranges(file, range_bytes) for file in self._files)
        self._ends = list(accumulate(counts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> InputRange: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[InputRange]: ...

    def __getitem__(self, index: int | slice) -> InputRange | Sequence[InputRange]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"range {index} of {len(self)}")
        place = bisect_right(self._ends, position)
        number_in_file = position - (self._ends[place - 1] if place else 0)
        return _range_of(position, self._files[place], number_in_file, self._range_bytes)

    def __iter__(self) -> Iterator[InputRange]:
        index = 0
        for file in self._files:
            for number in range(count_ranges(file, self._range_bytes)):
                yield _range_of(index, file, number, self._range_bytes)
                index += 1


def plan_ranges(files: Sequence[InputFile], range_bytes: int) -> RangePlan:
    """The ranges of ``files``. An empty file has none."""
    return RangePlan(files, range_bytes)


def choose_range_bytes(total_bytes: int) -> int:
    """A range size for an input of that size: about a thousand ranges, within the limits.

    Small enough that workers finish together, large enough that the ledger stays small.
    """
    wanted = -(-total_bytes // _WANTED_RANGES)
    rounded = -(-wanted // MIN_RANGE_BYTES) * MIN_RANGE_BYTES
    return min(max(rounded, MIN_RANGE_BYTES), MAX_RANGE_BYTES)


def count_ranges(file: InputFile, range_bytes: int) -> int:
    """How many ranges one file has."""
    if file.is_compressed:
        return 1 if file.size_bytes else 0
    return -(-file.size_bytes // range_bytes)


def _range_of(index: int, file: InputFile, number_in_file: int, range_bytes: int) -> InputRange:
    if file.is_compressed:
        return InputRange(index, file, 0, None)
    start = number_in_file * range_bytes
    return InputRange(index, file, start, min(start + range_bytes, file.size_bytes))
