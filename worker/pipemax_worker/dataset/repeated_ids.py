"""Finds ``custom_id``s that repeat over all of an input, in bounded memory.

An id is kept as a 16-byte hash with its line's place, 28 bytes in all, partitioned by hash to
temporary files; then partition by partition is looked at, block by block. Equal hashes are taken
for equal ids: among 10 billion ids two different ones share 128 bits by a chance of 1e-19.

Memory: a block, and the distinct ids of one partition, however often one of them repeats.
"""

from __future__ import annotations

import hashlib
import heapq
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from pipemax_worker.errors import OutputError

_ENTRY = np.dtype(
    [("high", "<u8"), ("low", "<u8"), ("offset", "<u8"), ("file", "<u4")], align=False
)
_PACK = struct.Struct("<16sQI").pack
_FAULTY_BIT = 1 << 31
_LEAST_LINE_BYTES = 64
_BYTES_AT_WORK_PER_ENTRY = 8 * _ENTRY.itemsize  # sorting keeps several copies and index arrays
_MAX_PARTITIONS = 4096

_Entries = npt.NDArray[np.void]


class Place(msgspec.Struct, frozen=True, order=True):
    """A line: the number of its file in the input, and its first byte."""

    file: int
    offset: int


class Repeat(msgspec.Struct, frozen=True, order=True):
    """A line whose id is also that of an earlier one, ``first``."""

    place: Place
    first: Place


class RepeatReport(msgspec.Struct, frozen=True):
    """How many lines repeat an id, and the first of them in the order of the input."""

    num_repeats: int
    first_ones: tuple[Repeat, ...]


class IdPartitions:
    """Temporary files in ``folder``; several processes write, each under its own ``writer`` name.

    max_memory_bytes   of what :meth:`find_repeats` works on; a tenth of it is buffered here.
    """

    def __init__(
        self, folder: Path, num_partitions: int, max_memory_bytes: int, writer: str = "0"
    ) -> None:
        self._folder = folder
        self._num_partitions = num_partitions
        self._block_entries = max(1, max_memory_bytes // _BYTES_AT_WORK_PER_ENTRY)
        self._max_buffered_bytes = max(_ENTRY.itemsize, max_memory_bytes // 10)
        self._writer = writer
        self._buffer = bytearray()

    def add(self, custom_id: str, place: Place, is_faulty: bool) -> None:
        """Remember a line; ``is_faulty``: it is wrong in another way too, and not reported again.

        Raises OutputError.
        """
        digest = hashlib.blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=16)
        file = place.file | (_FAULTY_BIT if is_faulty else 0)
        self._buffer += _PACK(digest.digest(), place.offset, file)
        if len(self._buffer) >= self._max_buffered_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what is buffered. Raises OutputError."""
        if not self._buffer:
            return
        entries = np.frombuffer(self._buffer, dtype=_ENTRY)
        numbers = entries["high"] % np.uint64(self._num_partitions)
        order = np.argsort(numbers, kind="stable")
        ends = np.searchsorted(numbers[order], np.arange(self._num_partitions + 1))
        sorted_entries = entries[order]
        for number in range(self._num_partitions):
            part = sorted_entries[ends[number] : ends[number + 1]]
            if len(part):
                self._append(number, part.tobytes())
        del entries  # it looks into the buffer, which cannot shrink as long
        self._buffer = bytearray()

    def find_repeats(self, max_shown: int) -> RepeatReport:
        """Over what all writers have flushed. Raises OutputError."""
        num_repeats, first_ones = 0, list[Repeat]()
        for number in range(self._num_partitions):
            firsts = np.empty(0, dtype=_ENTRY)
            for block in self._blocks(number):
                firsts = _first_of_each_id(np.concatenate((firsts, block)))
            for block in self._blocks(number):
                repeats = _repeats_in(firsts, block)
                num_repeats += len(repeats)
                first_ones = heapq.nsmallest(max_shown, [*first_ones, *_shown(repeats, max_shown)])
        return RepeatReport(num_repeats, tuple(first_ones))

    def _append(self, number: int, data: bytes) -> None:
        path = self._folder / f"{number:04d}-{self._writer}"
        try:
            with path.open("ab", buffering=0) as file:
                file.write(data)
        except OSError as error:
            raise OutputError(
                f"{path}: could not write ids to look for repeats: {error.strerror or error}; "
                "free space there, or set TMPDIR to a folder with 28 bytes for each line"
            ) from error

    def _blocks(self, number: int) -> Iterator[_Entries]:
        for path in sorted(self._folder.glob(f"{number:04d}-*")):
            with path.open("rb") as file:
                while data := file.read(self._block_entries * _ENTRY.itemsize):
                    yield np.frombuffer(data, dtype=_ENTRY)


def choose_num_partitions(input_bytes: int, max_memory_bytes: int) -> int:
    """So many that one partition's ids fit into the memory, were every line as short as can be."""
    num_lines = input_bytes // _LEAST_LINE_BYTES
    needed = -(-num_lines * _BYTES_AT_WORK_PER_ENTRY // max_memory_bytes)
    return min(max(1, needed), _MAX_PARTITIONS)


def _sorted(entries: _Entries) -> _Entries:
    """By id, and the lines of one id in the order of the input."""
    files = entries["file"] & np.uint32(_FAULTY_BIT - 1)
    order = np.lexsort((entries["offset"], files, entries["low"], entries["high"]))
    found: _Entries = entries[order]
    return found


def _begins_id(entries: _Entries) -> npt.NDArray[np.bool_]:
    """Whether each of the sorted entries is the first one of its id."""
    begins = np.ones(len(entries), dtype=np.bool_)
    begins[1:] = (entries["high"][1:] != entries["high"][:-1]) | (
        entries["low"][1:] != entries["low"][:-1]
    )
    return begins


def _first_of_each_id(entries: _Entries) -> _Entries:
    ordered = _sorted(entries)
    found: _Entries = ordered[_begins_id(ordered)]
    return found


def _repeats_in(firsts: _Entries, block: _Entries) -> npt.NDArray[np.int64]:
    """[num_repeats, 4]: file and offset of each line of ``block`` that is not its id's first one
    nor wrong in another way, and those of the first one."""
    both = _sorted(np.concatenate((firsts, block)))
    begins = _begins_id(both)
    first = both[begins][np.cumsum(begins) - 1]  # of every entry's id
    files, first_files = (x["file"] & np.uint32(_FAULTY_BIT - 1) for x in (both, first))
    is_first = (both["offset"] == first["offset"]) & (files == first_files)
    chosen = ~is_first & ((both["file"] & np.uint32(_FAULTY_BIT)) == 0)
    columns = (files, both["offset"], first_files, first["offset"])
    return np.stack([column[chosen].astype(np.int64) for column in columns], axis=1)


def _shown(repeats: npt.NDArray[np.int64], max_shown: int) -> list[Repeat]:
    """The first ones in the order of the input."""
    order = np.lexsort((repeats[:, 1], repeats[:, 0]))[:max_shown]
    return [
        Repeat(Place(file, offset), Place(first_file, first_offset))
        for file, offset, first_file, first_offset in repeats[order].tolist()
    ]
