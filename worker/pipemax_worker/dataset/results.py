"""Reads a job's records back, in the order of the input: for ``pipemax results``.

While a retry is under way a key may have several records: the last one in the chain counts. And a
segment may lose its failed records between two looks at it (``compaction``): by then every one of
their keys has another record further on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pipemax_worker.dataset.chain_reader import (
    read_last_records,
    segment_keys_by_range,
    segment_keys_of_range,
)
from pipemax_worker.dataset.done_ranges import read_newest_retry
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.dataset.offset_set import OffsetSet
from pipemax_worker.dataset.records import RecordHead, read_records

_MAX_SEGMENTS_HELD = 8

_Places = npt.NDArray[np.int64]  # [num_records, 3]: offset, number of its segment, line in it


class _SegmentChangedError(Exception):
    """A segment has lost records since it was looked at."""


def iterate_results(store: ObjectStore, ordered: bool = True) -> Iterator[bytes]:
    """Every key's record as its JSON line, without line end; of unfinished jobs, those there are.

    ordered   by input line; else segment by segment within each range, which reads each segment
              once. Memory: a few segments, and 24 bytes (else 8) for each record of one range.
    """
    may_change = read_newest_retry(store) is not None
    for range_index, keys in segment_keys_by_range(store).items():
        if ordered:
            yield from _in_order(store, range_index, keys, may_change)
        else:
            yield from _as_written(store, range_index, keys, may_change)


def _as_written(
    store: ObjectStore, range_index: int, keys: Sequence[str], may_change: bool
) -> Iterator[bytes]:
    seen = OffsetSet()
    for _, line in read_last_records(store, keys, seen):
        yield line
    if may_change:
        new_keys = segment_keys_of_range(store, range_index)[len(keys) :]
        for _, line in read_last_records(store, new_keys, seen):
            yield line


def _in_order(
    store: ObjectStore, range_index: int, keys: Sequence[str], may_change: bool
) -> Iterator[bytes]:
    """Look again where a segment has changed meanwhile, from the line on that was not found."""
    last_offset = -1
    while True:
        try:
            for head, line in _sorted_records(store, keys, last_offset):
                yield line
                last_offset = head.pipemax.offset
        except _SegmentChangedError:
            keys = segment_keys_of_range(store, range_index)
        else:
            if not may_change or (found := segment_keys_of_range(store, range_index)) == keys:
                return
            keys = found


def _sorted_records(
    store: ObjectStore, keys: Sequence[str], after_offset: int
) -> Iterator[tuple[RecordHead, bytes]]:
    """Sort where the records lie, then fetch them; requests finish nearly in the order in which
    they began, so the segments needed at one time are few. Raises _SegmentChangedError."""
    places = _last_places(store, keys)
    segments: OrderedDict[int, list[tuple[RecordHead, bytes]]] = OrderedDict()
    for offset, number, line in places[places[:, 0] > after_offset]:
        if number not in segments:
            segments[number] = list(read_records(keys[number], store.get(keys[number])))
            if len(segments) > _MAX_SEGMENTS_HELD:
                segments.popitem(last=False)
        segments.move_to_end(number)
        records = segments[number]
        if line >= len(records) or records[line][0].pipemax.offset != offset:
            raise _SegmentChangedError
        yield records[line]


def _last_places(store: ObjectStore, keys: Sequence[str]) -> _Places:
    """Where each key's last record lies, by offset."""
    found = [_places_in_segment(store, number, key) for number, key in enumerate(keys)]
    places = np.concatenate(found)
    places = places[np.argsort(places[:, 0], kind="stable")]
    is_last = np.append(places[1:, 0] != places[:-1, 0], True) if len(places) else slice(0)
    last: _Places = places[is_last]
    return last


def _places_in_segment(store: ObjectStore, number: int, key: str) -> _Places:
    offsets = [head.pipemax.offset for head, _ in read_records(key, store.get(key))]
    places = np.empty((len(offsets), 3), dtype=np.int64)
    places[:, 0] = offsets
    places[:, 1] = number
    places[:, 2] = np.arange(len(offsets))
    return places
