"""``ledger/claims/RANGE-ATTEMPT``: who took which range, one object an attempt, written once.

Claims are advisory: they save work and never decide a record, which the chain of segments alone
does. But they give attempts their numbers, and *a claim is never deleted*: put-if-absent gives
every number to one worker, and the key stays, so the numbers of a range are unique and only grow,
for the life of the output. The rule of ``segments`` leans on that once: a writer leaves a range to
a newer attempt. Were numbers given again (claims deleted when their range is done or given up), a
worker frozen since long ago could hold a greater number than the one to whom the range was given
last. That one would find the sleeper's segment, take it for a newer attempt's, and leave the range
to a worker that is gone: no record lost or doubled, but a range on which nobody works though its
newest claimant is alive. With growing numbers the holder of the newest claim never meets a newer
attempt. So a range is only ever left to one who works on it, or whose silence others notice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from pipemax_worker.dataset.object_store import ObjectNotFoundError, ObjectStore
from pipemax_worker.dataset.records import Attempt

CLAIMS_PREFIX = "ledger/claims/"
RANGES_PER_BLOCK = 1000
"""Claims and done ranges are listed by blocks of so many: one answer of an S3 store holds them."""

_CLAIM_KEY = re.compile(re.escape(CLAIMS_PREFIX) + r"(\d{8})-(\d{6})")


class Claim(msgspec.Struct, frozen=True):
    """Who took the range, and when (ISO 8601, UTC; for people, nothing depends on it)."""

    attempt: Attempt
    claimed_at: str


class ClaimLog:
    """All claims of one output location."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def try_claim(self, range_index: int, number: int, worker: str) -> Attempt | None:
        """Take the range by attempt ``number``; None if that number is given already."""
        attempt = Attempt(number, worker)
        claim = Claim(attempt, datetime.now(UTC).isoformat(timespec="seconds"))
        key = _claim_key(range_index, number)
        return attempt if self._store.put_if_absent(key, msgspec.json.encode(claim)) else None

    def claim(self, range_index: int, worker: str) -> Attempt:
        """Take the range, whoever has it; the attempt is newer than all before."""
        number = self.newest_number(range_index) + 1
        while (attempt := self.try_claim(range_index, number, worker)) is None:
            number += 1
        return attempt

    def newest_number(self, range_index: int) -> int:
        """Of the range's newest claim; 0 if there is none."""
        keys = self._store.list(f"{CLAIMS_PREFIX}{range_index:08d}-")
        return max((number for _, number in _parse_keys(keys)), default=0)

    def newest_numbers(self, block: int) -> dict[int, int]:
        """The same of every range of a block that was ever claimed, done ones among them."""
        return self.newest_numbers_with(block_prefix(block))

    def newest_numbers_with(self, digits: str) -> dict[int, int]:
        """The same of all ranges whose index begins so, of eight digits with leading zeros."""
        newest: dict[int, int] = {}
        for range_index, number in _parse_keys(self._store.list(CLAIMS_PREFIX + digits)):
            newest[range_index] = max(number, newest.get(range_index, 0))
        return newest

    def read(self, range_index: int, number: int) -> Claim | None:
        """One claim; None if it is not there or no claim of ours."""
        try:
            data = self._store.get(_claim_key(range_index, number))
            return msgspec.json.decode(data, type=Claim)
        except (ObjectNotFoundError, msgspec.DecodeError):
            return None


def block_prefix(block: int) -> str:
    """The digits with which the indices of a block's ranges begin, of the eight in a key."""
    return f"{block:05d}"


def _claim_key(range_index: int, number: int) -> str:
    return f"{CLAIMS_PREFIX}{range_index:08d}-{number:06d}"


def _parse_keys(keys: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(range, attempt) of every key that is a claim's."""
    for match in filter(None, map(_CLAIM_KEY.fullmatch, keys)):
        yield int(match[1]), int(match[2])
