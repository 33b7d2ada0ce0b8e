"""Removes from a range's chain the failed records that a retry has superseded.

Called once the chain is complete for that retry: every key has a record that succeeded, or one of
this retry, which stands in a later segment. What is done to a segment of before the retry depends
on nothing but the segment: *its failed records go*. A segment is thus either as it was created or
without its failed records, for good: whoever does it again, however late (frozen in the middle,
woken after the next retry), writes the same. No key is deleted: a zombie of before the retry still
finds its segment taken, goes on, reaches the retry's segments, and leaves.

``errors/`` copies go first, so that a segment that was compacted has none left.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import msgspec

from pipemax_worker.dataset.chain import RangeSummary, SegmentInfo, describe_segment, errors_key
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.dataset.records import read_records


def compact_chain(store: ObjectStore, summary: RangeSummary, retry: int) -> RangeSummary:
    """Rewrite what is to be rewritten; the summary of what lies there then. Raises OutputError.

    summary   of a chain that is complete for ``retry``.
    """
    steps = compact_steps(store, summary, retry)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            compacted: RangeSummary = end.value
            return compacted


def compact_steps(
    store: ObjectStore, summary: RangeSummary, retry: int
) -> Generator[None, None, RangeSummary]:
    """The same in steps with at most one store call each."""
    segments: list[SegmentInfo] = []
    for segment in summary.segments:
        if segment.num_failed and segment.retry < retry:
            segment = yield from _compact_segment_steps(store, segment.key)
        segments.append(segment)
    return msgspec.structs.replace(summary, segments=tuple(segments))


def _compact_segment_steps(store: ObjectStore, key: str) -> Generator[None, None, SegmentInfo]:
    yield
    found = store.get(key)
    records = list(read_records(key, found))
    kept = [(head, line) for head, line in records if not head.is_failed]
    data = b"".join(line + b"\n" for _, line in kept)
    if len(kept) < len(records):
        yield from _put_steps(store, key, data)
    return describe_segment(key, data, [head for head, _ in kept])


def _put_steps(store: ObjectStore, key: str, data: bytes) -> Iterator[None]:
    yield
    store.put(errors_key(key), b"")
    yield
    store.put(key, data)
