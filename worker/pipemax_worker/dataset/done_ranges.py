"""Which ranges are done, and in which pass: the first one over the input, or a retry.

ledger/done/RANGE.json              the range's chain covers every line: counts, segments
ledger/retries/N.json               retry N has begun: the ranges that it goes over again
ledger/retries/N/RANGE.json         one of them is done for this retry
ledger/retries/N/given-up.json      errorPolicy ended it: the next --retry-failed is another retry

All are written once, by put-if-absent: workers that begin a retry together agree on one, and a
worker that was frozen in an older pass changes nothing. A retry's ranges are those that had failed
records or were not done when it began; the others stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from datetime import UTC, datetime

import msgspec

from pipemax_worker.dataset.chain import RangeSummary
from pipemax_worker.dataset.compaction import compact_chain
from pipemax_worker.dataset.documents import decode_document, encode_document
from pipemax_worker.dataset.object_store import ObjectStore

_DONE_PREFIX = "ledger/done/"
_RETRIES_PREFIX = "ledger/retries/"
_RETRY_KEY = re.compile(re.escape(_RETRIES_PREFIX) + r"(\d{4})\.json")
_DONE_KEY = re.compile(r".*/(\d{8})\.json")


class Retry(msgspec.Struct, frozen=True):
    """``ledger/retries/N.json``. ``ranges`` are the indices of those that it goes over."""

    number: int
    created_at: str
    ranges: tuple[int, ...]


class DoneRanges:
    """The ranges of one output location; ``retry`` is the newest that had begun when this was made,
    None in the first pass."""

    def __init__(self, store: ObjectStore, num_ranges: int) -> None:
        self.retry = read_newest_retry(store)
        self._store = store
        self._num_ranges = num_ranges

    @property
    def pass_number(self) -> int:
        """Of the retry; 0 for the first pass."""
        return self.retry.number if self.retry else 0

    def indices(self, digits: str = "") -> set[int]:
        """Of the ranges that are done for the newest pass; of those that begin with ``digits``,
        eight with leading zeros."""
        done = set(_done_keys(self._store, self.pass_number, digits))
        if self.retry is not None:
            done |= set(_indices_with(digits, self._num_ranges)).difference(self.retry.ranges)
        return done

    def summaries(self, known: Set[int] = frozenset()) -> Iterator[RangeSummary]:
        """What these ranges hold, but for those that are ``known``, in order."""
        indices = self.indices() - known
        if not indices:
            return
        keys: dict[int, str] = {}
        for number in range(self.pass_number + 1):
            keys |= _done_keys(self._store, number)
        for index in sorted(indices):
            yield decode_document(self._store, keys[index], RangeSummary)

    def finish(self, summary: RangeSummary) -> None:
        """Mark a range as done, its chain being complete for this pass; records that the pass has
        superseded are removed before. Nothing happens if it is marked.

        Older passes are told as well: whoever still works in one has nothing to do there.
        """
        if self.retry is not None:
            summary = compact_chain(self._store, summary, self.retry.number)
        for number in range(self.pass_number, -1, -1):
            key = _done_key(number, summary.range_index)
            self._store.put_if_absent(key, encode_document(summary))

    @property
    def is_finished(self) -> bool:
        """Whether every range is done for the newest pass."""
        return len(self.indices()) == self._num_ranges

    def begin_retry(self) -> bool:
        """Be in a retry of all that failed or is missing: join the one that is under way, unless it
        was given up, or begin one. False if nothing failed and nothing is missing."""
        if self.retry is not None and not self.is_finished and not self._is_given_up():
            return True
        ranges = set(range(self._num_ranges)) - self.indices()
        ranges |= {one.range_index for one in self.summaries() if one.counts.failed}
        if not ranges:
            return False
        created_at = datetime.now(UTC).isoformat(timespec="seconds")
        wanted = Retry(self.pass_number + 1, created_at, tuple(sorted(ranges)))
        # Who is second takes the first one's: the same ranges, or nearly.
        self._store.put_if_absent(_retry_key(wanted.number), encode_document(wanted))
        self.retry = decode_document(self._store, _retry_key(wanted.number), Retry)
        return True

    def give_up_retry(self) -> None:
        """This retry was ended for good; in the first pass nothing happens."""
        if self.retry is not None:
            self._store.put_if_absent(_given_up_key(self.retry.number), b"{}\n")

    def _is_given_up(self) -> bool:
        return self._store.exists(_given_up_key(self.pass_number))


def read_newest_retry(store: ObjectStore) -> Retry | None:
    """The retry with the greatest number; None if none was ever begun."""
    keys = [key for key in store.list(_RETRIES_PREFIX) if _RETRY_KEY.fullmatch(key)]
    return decode_document(store, keys[-1], Retry) if keys else None


def _done_keys(store: ObjectStore, pass_number: int, digits: str = "") -> dict[int, str]:
    """Range index -> key of what says that it is done in this pass."""
    keys = store.list(_done_prefix(pass_number) + digits)
    matches = (_DONE_KEY.fullmatch(key) for key in keys)
    return {int(match[1]): match[0] for match in matches if match}


def _indices_with(digits: str, num_ranges: int) -> range:
    """The indices below ``num_ranges`` whose eight digits begin with ``digits``."""
    size = 10 ** (8 - len(digits))
    first = int(digits or "0") * size
    return range(min(first, num_ranges), min(first + size, num_ranges))


def _done_key(pass_number: int, range_index: int) -> str:
    return f"{_done_prefix(pass_number)}{range_index:08d}.json"


def _done_prefix(pass_number: int) -> str:
    return _DONE_PREFIX if pass_number == 0 else f"{_RETRIES_PREFIX}{pass_number:04d}/"


def _retry_key(number: int) -> str:
    return f"{_RETRIES_PREFIX}{number:04d}.json"


def _given_up_key(number: int) -> str:
    return f"{_RETRIES_PREFIX}{number:04d}/given-up.json"
