"""Finds the segments that are there, and each key's last record in a chain."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from pipemax_worker.dataset.chain import RESULTS_PREFIX
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.dataset.offset_set import OffsetSet
from pipemax_worker.dataset.records import RecordHead, read_records

_SEGMENT_KEY = re.compile(re.escape(RESULTS_PREFIX) + r"\d{8}-\d{6}\.jsonl")


def segment_keys_by_range(store: ObjectStore) -> dict[int, list[str]]:
    """The segments of every range that has one, in the order of ranges and chains.

    Other files in the folder are passed over.
    """
    keys = filter(_SEGMENT_KEY.fullmatch, store.list(RESULTS_PREFIX))
    return {range_index: list(group) for range_index, group in groupby(keys, _range_index_of)}


def segment_keys_of_range(store: ObjectStore, range_index: int) -> list[str]:
    """The same for one range."""
    keys = store.list(f"{RESULTS_PREFIX}{range_index:08d}-")
    return [key for key in keys if _SEGMENT_KEY.fullmatch(key)]


def read_last_records(
    store: ObjectStore, keys: Sequence[str], seen: OffsetSet
) -> Iterator[tuple[RecordHead, bytes]]:
    """The last record of every key in the segments ``keys`` that is not in ``seen``, where it is
    put. The last segment comes first: of several records of a key, the first one met counts."""
    for key in reversed(keys):
        for head, line in read_records(key, store.get(key)):
            if seen.add(head.pipemax.offset):
                yield head, line


def _range_index_of(key: str) -> int:
    return int(key.removeprefix(RESULTS_PREFIX).partition("-")[0])
