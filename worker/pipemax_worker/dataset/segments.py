"""Writes a range's records as a chain of segments, exactly once, whoever else writes it.

The rule, on which nothing but ``put_if_absent`` is relied: *who creates segment K has read 0..K-1
and holds none of their records. Who finds K taken reads it, drops what it holds twice, and goes on
at K+1, or leaves the range if K came from a newer attempt.*

Why it suffices: a record enters the chain only by the creation of a segment. Its writer had read
all segments before and dropped their records, and no segment before K can appear later, since K-1
existed. So no record is in two segments. A record that is dropped is in the chain already, or the
range belongs to a newer attempt, which covers every line that the chain lacks. So none is lost.
Claims, clocks and heartbeats only save work; a writer frozen for a week finds its segment taken.

A retry (``retries``) adds to the rule: *a writer of retry N does not count failed records of before
N; a segment of a newer retry is newer than any attempt of an older one.* So a key has at most one
record of each retry, and none after one that succeeded. ``compaction`` then removes the failed ones
that were superseded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import msgspec

from pipemax_worker.contract.clock import Clock
from pipemax_worker.dataset.chain import (
    RangeSummary,
    SegmentInfo,
    describe_segment,
    errors_key,
    segment_key,
)
from pipemax_worker.dataset.object_store import ObjectNotFoundError, ObjectStore
from pipemax_worker.dataset.offset_set import OffsetSet
from pipemax_worker.dataset.records import (
    Attempt,
    RecordCounts,
    RecordHead,
    encode_record,
    key_of,
    read_records,
)
from pipemax_worker.errors import InvariantError

_NOBODY = Attempt(0, "")


class FlushLimits(msgspec.Struct, frozen=True):
    """A segment is written when its records are that many, that large or that old."""

    max_records: int = 1000
    max_bytes: int = 16 * 1024 * 1024
    max_age_seconds: float = 10.0


class SegmentWriter:
    """One attempt at one range's chain. Make it with :meth:`open`, which reads the chain.

    recorded   offsets of the lines that have a record in the chain: do not compute those again.
               In a retry: those that succeeded, or were tried again in it.
    counts     of the records of ``recorded``; ``failed_codes`` and ``num_copied`` likewise.
    is_lost    a newer attempt has written: leave the range, what is appended now is dropped.

    ``flush`` and ``open`` are made of steps with at most one store call each, so that tests can run
    the steps of many writers in any order and stop any writer between two.
    """

    def __init__(
        self,
        store: ObjectStore,
        range_index: int,
        attempt: Attempt,
        clock: Clock,
        limits: FlushLimits | None = None,
        retry: int = 0,
    ) -> None:
        self.range_index = range_index
        self.attempt = attempt
        self.retry = retry
        self.recorded = OffsetSet()
        self.counts = RecordCounts()
        self.failed_codes: Counter[str] = Counter()
        self.num_copied = 0
        self.is_lost = False
        self._store = store
        self._clock = clock
        self._limits = limits or FlushLimits()
        self._segments: list[SegmentInfo] = []
        self._buffer: dict[int, bytes] = {}
        self._buffer_bytes = 0
        self._oldest_seconds = 0.0

    @classmethod
    def open(
        cls,
        store: ObjectStore,
        range_index: int,
        attempt: Attempt,
        clock: Clock,
        limits: FlushLimits | None = None,
        retry: int = 0,
    ) -> SegmentWriter:
        """A writer that has read the chain. Raises OutputError."""
        writer = cls(store, range_index, attempt, clock, limits, retry)
        for _ in writer.open_steps():
            pass
        return writer

    @property
    def num_buffered(self) -> int:
        """Records that are not in the chain yet."""
        return len(self._buffer)

    def has_record(self, offset: int) -> bool:
        """Whether the line at ``offset`` has a record, in the chain or on its way there."""
        return offset in self.recorded or offset in self._buffer

    def append(self, record: Mapping[str, Any]) -> bool:
        """Take a record; flush if a limit is reached. A key that has a record already is ignored.

        False if the range is lost. Raises InvariantError for a record without its key
        (``pipemax.file``, ``pipemax.offset``), OutputError; the records are kept for the next
        flush then.
        """
        offset = key_of(record).offset
        if not self.is_lost and not self.has_record(offset):
            if not self._buffer:
                self._oldest_seconds = self._clock.now()
            data = encode_record(record, self.attempt, self.retry)
            self._buffer[offset] = data
            self._buffer_bytes += len(data) + 1
        return self.flush_if_due()

    def flush_if_due(self) -> bool:
        """Flush if a limit is reached; False if the range is lost. Call it now and then."""
        return self.flush() if self._is_due() else not self.is_lost

    def flush(self) -> bool:
        """Put every buffered record into the chain; False if the range is lost."""
        for _ in self.flush_steps():
            pass
        return not self.is_lost

    def summary(self, num_lines: int) -> RangeSummary:
        """What the chain holds, once it covers all ``num_lines`` lines of the range.

        Final then: no attempt can hold a record that the chain lacks. Raises InvariantError if the
        chain does not cover the range.
        """
        if self._buffer or self.is_lost or len(self.recorded) != num_lines:
            raise InvariantError(
                f"range {self.range_index} is not complete: {num_lines} lines, "
                f"{len(self.recorded)} records, {len(self._buffer)} not written"
                + (", and a newer attempt writes it" if self.is_lost else "")
            )
        return RangeSummary(
            self.range_index,
            self.counts,
            tuple(self._segments),
            dict(self.failed_codes.most_common()),
            self.num_copied,
        )

    def open_steps(self) -> Iterator[None]:
        """Read the chain as far as it goes, whoever wrote it."""
        while True:
            yield
            try:
                data = self._store.get(self._next_key())
            except ObjectNotFoundError:
                return
            newest = yield from self._take_in_steps(data)
            self.is_lost = self.is_lost or newest[0] > self.retry

    def flush_steps(self) -> Iterator[None]:
        """Create the next segment, or read it if it is taken, until the buffer is empty."""
        while self._buffer:
            key, data = self._next_key(), self._encode_buffer()
            yield
            if not self._store.put_if_absent(key, data):
                yield
                data = self._store.get(key)
            newest = yield from self._take_in_steps(data)
            if newest > (self.retry, self.attempt):
                self.is_lost = True
                self._clear_buffer()

    def _take_in_steps(self, data: bytes) -> Generator[None, None, tuple[int, Attempt]]:
        """Count the next segment as read, own or not; returns the retry and the attempt that wrote
        it. A segment that compaction has emptied tells of nobody."""
        key = self._next_key()
        records = list(read_records(key, data))
        yield from self._copy_errors_steps(key, records)
        heads = [head for head, _ in records]
        self._segments.append(describe_segment(key, data, heads))
        for head in heads:
            self._take_in(head)
        return max(((head.pipemax.retry, head.attempt) for head in heads), default=(0, _NOBODY))

    def _take_in(self, head: RecordHead) -> None:
        if head.is_failed and head.pipemax.retry < self.retry:
            return  # to be tried again
        offset = head.pipemax.offset
        if self.recorded.add(offset):
            self.counts += head.counts
            self.num_copied += head.pipemax.is_copied
            if (code := head.error_code) is not None:
                self.failed_codes[code] += 1
        if (dropped := self._buffer.pop(offset, None)) is not None:
            self._buffer_bytes -= len(dropped) + 1

    def _copy_errors_steps(
        self, key: str, records: list[tuple[RecordHead, bytes]]
    ) -> Iterator[None]:
        """Copy failed records to ``errors/``. Who created the segment may have died before it."""
        failed = [line for head, line in records if head.is_failed]
        if not failed:
            return
        yield
        if not self._store.exists(errors_key(key)):
            yield
            # Never over what compaction has left there meanwhile.
            self._store.put_if_absent(errors_key(key), b"\n".join(failed) + b"\n")

    def _next_key(self) -> str:
        return segment_key(self.range_index, len(self._segments))

    def _encode_buffer(self) -> bytes:
        return b"".join(self._buffer[offset] + b"\n" for offset in sorted(self._buffer))

    def _clear_buffer(self) -> None:
        self._buffer.clear()
        self._buffer_bytes = 0

    def _is_due(self) -> bool:
        if not self._buffer:
            return False
        return (
            len(self._buffer) >= self._limits.max_records
            or self._buffer_bytes >= self._limits.max_bytes
            or self._clock.now() - self._oldest_seconds >= self._limits.max_age_seconds
        )
