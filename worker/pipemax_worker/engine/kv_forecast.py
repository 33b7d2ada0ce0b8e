"""The most KV that running requests will hold at a time, if none is admitted any more.

Reserving room for every request's whole output wastes half of it: requests are of all ages, and the
old ones give their room back before the young ones need it. A request that holds c tokens and is
expected to end in r rounds holds c + f tokens f rounds from now, as long as f < r; the peak of the
sum is what must fit (TD-Pipe, arXiv 2506.10470, for its prefill phase; here for every admission).

A *round* is one turn of each micro-batch. Requests are kept in buckets by the round of their
expected end, with sums, so a change costs O(1) and a peak O(buckets).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import add, mul

_BUCKETS_PER_OUTPUT = 16
"""Of the expected length: finer ones would only cost time."""

_MAX_EMPTY_RATIO = 3
"""Buckets for each one with members, up to which all are looked at: sorting costs more."""


class KVForecast:
    """``tokens``: KV positions, with half a block a request for what its last block leaves empty.

    ``base`` of a request is what it would hold at round 0: c - now. At round r it holds base + r.
    """

    def __init__(
        self, num_micro_batches: int, block_tokens: int, expected_output_tokens: int
    ) -> None:
        self._num_micro_batches = num_micro_batches
        self._slack_tokens = block_tokens / 2
        self._rounds_per_bucket = max(1, expected_output_tokens // _BUCKETS_PER_OUTPUT)
        self._num_turns = 0
        self._members: dict[int, dict[int, float]] = {}
        self._bucket_of: dict[int, int] = {}
        # By bucket: bases and members, and the round in its middle.
        self._sums: list[float] = []
        self._counts: list[int] = []
        self._rounds: list[float] = []
        self._first_bucket = 0

    @property
    def _now(self) -> float:
        return self._num_turns / self._num_micro_batches

    def note_turn(self) -> None:
        """One micro-batch has taken its turn."""
        self._num_turns += 1

    def add(self, request_id: int, num_tokens: int, num_expected_tokens: float) -> None:
        """A request with ``num_tokens`` of prompt and output begins to run."""
        base = num_tokens + self._slack_tokens - self._now
        self._put(request_id, base, self._bucket(num_expected_tokens))

    def remove(self, request_id: int) -> None:
        """It does not run any more. Unknown ids are ignored."""
        bucket = self._bucket_of.pop(request_id, None)
        if bucket is None:
            return
        members = self._members[bucket]
        self._sums[bucket] -= members.pop(request_id)
        self._counts[bucket] -= 1
        if not members:
            del self._members[bucket]
            self._sums[bucket] = 0.0

    def peak_tokens(
        self, candidates: Sequence[tuple[int, float]], excess_tokens: float = 0.0
    ) -> int:
        """Most tokens at a time, with ``candidates``, (tokens now, tokens to come), admitted now.

        Who has outlived its prediction is expected to go on for ``excess_tokens`` more.
        """
        self._postpone_overdue(excess_tokens)
        now, rounds_per_bucket = self._now, self._rounds_per_bucket
        added: dict[int, tuple[float, int]] = {}
        for num_tokens, num_expected_tokens in candidates:
            bucket = int((now + max(0.0, num_expected_tokens)) // rounds_per_bucket)
            base, count = added.get(bucket, (0.0, 0))
            added[bucket] = (base + num_tokens + self._slack_tokens - now, count + 1)
        return int(self._peak(added))

    def _peak(self, added: dict[int, tuple[float, int]]) -> float:
        """What is held at the end of each bucket, by all that end in it or later."""
        if added:
            self._reach(max(added))
        buckets: Sequence[int] = range(len(self._sums) - 1, self._first_bucket - 1, -1)
        if len(buckets) > _MAX_EMPTY_RATIO * len(self._members):
            buckets = sorted(self._members.keys() | added.keys(), reverse=True)
        sums = list(map(self._sums.__getitem__, buckets))
        counts = list(map(self._counts.__getitem__, buckets))
        for bucket, (base, count) in added.items():
            index = buckets.index(bucket)
            sums[index] += base
            counts[index] += count
        rounds = map(self._rounds.__getitem__, buckets)
        held = map(add, accumulate(sums), map(mul, accumulate(counts), rounds))
        return max(0.0, max(held, default=0.0))

    def _bucket(self, num_rounds: float) -> int:
        return int((self._now + max(0.0, num_rounds)) // self._rounds_per_bucket)

    def _reach(self, bucket: int) -> None:
        """There are sums up to ``bucket``."""
        for number in range(len(self._sums), bucket + 1):
            self._sums.append(0.0)
            self._counts.append(0)
            self._rounds.append((number + 0.5) * self._rounds_per_bucket)

    def _put(self, request_id: int, base: float, bucket: int) -> None:
        self._reach(bucket)
        self._bucket_of[request_id] = bucket
        self._members.setdefault(bucket, {})[request_id] = base
        self._sums[bucket] += base
        self._counts[bucket] += 1

    def _postpone_overdue(self, excess_tokens: float) -> None:
        current = self._bucket(0.0)
        if current == self._first_bucket:
            return
        self._first_bucket = current
        later = max(current, self._bucket(excess_tokens))
        for bucket in [b for b in self._members if b < current]:
            for request_id, base in list(self._members[bucket].items()):
                self.remove(request_id)
                self._put(request_id, base, later)
