"""Cuts the input into byte ranges by arithmetic: no pass over it, no list of millions.

A line belongs to the range in which its first byte lies; who reads a range finds its lines by
itself (``reader``). Pure.

Ranges shrink towards the end, so that workers who take one after the other finish together though
nobody tells them how fast the others are: *factoring* (Hummel, Schonberg, Flynn, "Factoring: a
method for scheduling parallel loops", CACM 1992), with a batch size that does not depend on the
number of workers. Seen from the end, the last ``2 x ranges_per_size`` ranges have the smallest
size, the ``ranges_per_size`` before them twice that, and so on up to the largest size, which takes
the rest: half of the bytes or more. Workers up to half of ``ranges_per_size`` find each size in
time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, overload

import msgspec

from pipemax_worker.dataset.inputs import InputFile

MIN_RANGE_BYTES = 64 * 1024
MAX_RANGE_BYTES = 16 * 1024 * 1024
RANGES_PER_SIZE = 128


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


class _Piece(NamedTuple):
    """Part of a file that is cut into ranges of one size, the last one perhaps shorter."""

    file: InputFile
    start: int
    end: int
    range_bytes: int

    @property
    def num_ranges(self) -> int:
        return -(-(self.end - self.start) // self.range_bytes)

    def range_at(self, number: int, index: int) -> InputRange:
        if self.file.is_compressed:
            return InputRange(index, self.file, 0, None)
        start = self.start + number * self.range_bytes
        return InputRange(index, self.file, start, min(start + self.range_bytes, self.end))


class RangePlan(Sequence[InputRange]):
    """All ranges of the input in order, each computed when asked for: O(files) memory.

    The index follows the input. The order in which ranges are taken is another one: compressed
    files first, the largest before all, since nobody can share one; then the rest as it comes.
    """

    def __init__(self, pieces: Sequence[_Piece]) -> None:
        self._pieces = tuple(pieces)
        self._ends = list(accumulate(piece.num_ranges for piece in pieces))
        self._taken_pieces = sorted(
            range(len(pieces)), key=lambda number: _taking_rank(pieces[number])
        )
        counts = (pieces[number].num_ranges for number in self._taken_pieces)
        self._taken_ends = list(accumulate(counts))

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
        return self._pieces[place].range_at(position - self._first_index(place), position)

    def __iter__(self) -> Iterator[InputRange]:
        index = 0
        for piece in self._pieces:
            for number in range(piece.num_ranges):
                yield piece.range_at(number, index)
                index += 1

    def taken_at(self, position: int) -> int:
        """The index of the range that is taken at ``position``, of 0 to ``len - 1``."""
        place = bisect_right(self._taken_ends, position)
        number = position - (self._taken_ends[place - 1] if place else 0)
        return self._first_index(self._taken_pieces[place]) + number

    def _first_index(self, place: int) -> int:
        return self._ends[place - 1] if place else 0


def plan_ranges(
    files: Sequence[InputFile],
    range_bytes: int,
    smallest_range_bytes: int | None = None,
    ranges_per_size: int = RANGES_PER_SIZE,
) -> RangePlan:
    """The ranges of ``files``, of ``range_bytes`` at first and halved step by step down to
    ``smallest_range_bytes`` (the same, if it is not given). An empty file has none.
    """
    smallest = smallest_range_bytes or range_bytes
    if not 1 <= smallest <= range_bytes or ranges_per_size < 1:
        raise ValueError(
            f"sizes must be positive and shrink, not from {range_bytes} to {smallest} bytes "
            f"by {ranges_per_size}"
        )
    total_bytes = sum(file.size_bytes for file in files if not file.is_compressed)
    areas = _areas_of_one_size(total_bytes, range_bytes, smallest, ranges_per_size)
    return RangePlan(list(_cut_files(files, areas)))


def choose_range_bytes(total_bytes: int) -> int:
    """The largest size for an input of so many bytes: a power of two times the smallest.

    So large that at least half of the bytes lie in ranges of that size, and twice
    ``RANGES_PER_SIZE`` ranges there are: the ledger stays small, and the rest can shrink.
    """
    size = MIN_RANGE_BYTES
    while 2 * size <= MAX_RANGE_BYTES and 2 * size * 2 * RANGES_PER_SIZE <= total_bytes:
        size *= 2
    return size


class _Area(NamedTuple):
    """Bytes of all files without compressed ones, one behind the other, up to ``end``."""

    end: int
    range_bytes: int


def _areas_of_one_size(
    total_bytes: int, largest: int, smallest: int, ranges_per_size: int
) -> list[_Area]:
    areas = []
    size = largest
    while size // 2 >= smallest:
        # What follows is as many bytes as ranges_per_size ranges of this size have.
        areas.append(_Area(max(0, total_bytes - ranges_per_size * size), size))
        size //= 2
    return [*areas, _Area(total_bytes, size)]


def _cut_files(files: Sequence[InputFile], areas: Sequence[_Area]) -> Iterator[_Piece]:
    """The files' pieces, each in one area."""
    first_byte = 0
    for file in files:
        if file.is_compressed:
            if file.size_bytes:
                yield _Piece(file, 0, file.size_bytes, file.size_bytes)
            continue
        start = 0
        for area in areas:
            end = min(file.size_bytes, area.end - first_byte)
            if end > start:
                yield _Piece(file, start, end, area.range_bytes)
                start = end
        first_byte += file.size_bytes


def _taking_rank(piece: _Piece) -> tuple[bool, int]:
    return (not piece.file.is_compressed, -piece.end if piece.file.is_compressed else 0)
