"""Reads a job's records back, in the order of the input: for ``pipemax results``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np

from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.dataset.progress import segment_keys_by_range
from pipemax_worker.dataset.records import read_records

_MAX_SEGMENTS_HELD = 8


def iterate_results(store: ObjectStore, ordered: bool = True) -> Iterator[bytes]:
    """Every record as its JSON line, without line end; of unfinished jobs, those there are.

    ordered   by input line; else as they were written within each range, which reads each segment
              once. Memory: a few segments, and 24 bytes for each record of one range.
    """
    for keys in segment_keys_by_range(store).values():
        yield from _ordered_records(store, keys) if ordered else _records(store, keys)


def _records(store: ObjectStore, keys: Sequence[str]) -> Iterator[bytes]:
    for key in keys:
        for _, line in read_records(key, store.get(key)):
            yield line


def _ordered_records(store: ObjectStore, keys: Sequence[str]) -> Iterator[bytes]:
    """Sort where the records lie, then fetch them; requests finish nearly in the order in which
    they began, so the segments needed at one time are few."""
    places = [_places_in_segment(store, number, key) for number, key in enumerate(keys)]
    index = np.concatenate(places)  # [num_records, 3]: offset, segment, line in it
    segments: OrderedDict[int, list[bytes]] = OrderedDict()
    for _, number, line in index[np.argsort(index[:, 0], kind="stable")]:
        if number not in segments:
            segments[number] = store.get(keys[number]).splitlines()
            if len(segments) > _MAX_SEGMENTS_HELD:
                segments.popitem(last=False)
        segments.move_to_end(number)
        yield segments[number][line]


def _places_in_segment(store: ObjectStore, number: int, key: str) -> np.ndarray:
    offsets = [head.pipemax.offset for head, _ in read_records(key, store.get(key))]
    places = np.empty((len(offsets), 3), dtype=np.int64)
    places[:, 0] = offsets
    places[:, 1] = number
    places[:, 2] = np.arange(len(offsets))
    return places
