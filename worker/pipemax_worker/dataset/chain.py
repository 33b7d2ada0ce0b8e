"""What a range's chain is made of: segments, their keys, and what is said of them. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from pipemax_worker.dataset.records import RecordCounts, RecordHead

RESULTS_PREFIX = "results/"
ERRORS_PREFIX = "errors/"


class SegmentInfo(msgspec.Struct, frozen=True):
    """One segment of the chain, for the manifest. ``retry`` in which it was written: its number."""

    key: str
    size_bytes: int
    num_records: int
    sha256: str
    num_failed: int = 0
    retry: int = 0


class RangeSummary(msgspec.Struct, frozen=True):
    """What a range's chain holds. ``failed_codes`` maps an error code to its number of records,
    ``num_copied`` of the records come from an earlier job's output."""

    range_index: int
    counts: RecordCounts
    segments: tuple[SegmentInfo, ...]
    failed_codes: dict[str, int] = {}
    num_copied: int = 0


def segment_key(range_index: int, segment_index: int) -> str:
    """``results/RANGE-K.jsonl``, padded so that keys sort in the order of the input."""
    return f"{RESULTS_PREFIX}{range_index:08d}-{segment_index:06d}.jsonl"


def errors_key(results_key: str) -> str:
    """Where the failed records of a segment are copied to."""
    return ERRORS_PREFIX + results_key.removeprefix(RESULTS_PREFIX)


def describe_segment(key: str, data: bytes, heads: Sequence[RecordHead]) -> SegmentInfo:
    """``data`` is the segment's content, ``heads`` those of its records."""
    return SegmentInfo(
        key=key,
        size_bytes=len(data),
        num_records=len(heads),
        sha256=hashlib.sha256(data).hexdigest(),
        num_failed=sum(head.is_failed for head in heads),
        retry=max((head.pipemax.retry for head in heads), default=0),
    )
