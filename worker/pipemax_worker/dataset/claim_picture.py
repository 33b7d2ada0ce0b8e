"""What one worker knows of all ranges: free, claimed or done. Pure; one byte a range.

A range that is claimed never becomes free again, and one that is done stays done. So the picture
may be old, but what it says is claimed is claimed: an old picture costs a refused claim at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import islice

from pipemax_worker.dataset.ranges import RangePlan

_FREE, _CLAIMED, _DONE = range(3)


@dataclass
class SeenClaim:
    """The newest claim that is known of a range that is not done.

    seen_seconds   when this worker first saw it.
    worker         who holds it; None until it is read.
    """

    number: int
    seen_seconds: float
    worker: str | None = None


class ClaimPicture:
    """``claims`` holds the claimed ranges that are not done, by index."""

    def __init__(self, plan: RangePlan) -> None:
        self.claims: dict[int, SeenClaim] = {}
        self._plan = plan
        self._states = bytearray(len(plan))
        self._num_done = 0
        self._position = 0  # in the order of taking; no range before it is free

    @property
    def is_done(self) -> bool:
        """Whether every range is done."""
        return self._num_done == len(self._states)

    def is_known_done(self, index: int) -> bool:
        return self._states[index] == _DONE

    def note_done(self, indices: Set[int]) -> None:
        for index in indices:
            if self._states[index] != _DONE:
                self._states[index] = _DONE
                self._num_done += 1
                self.claims.pop(index, None)

    def note_claims(self, numbers: Mapping[int, int], now_seconds: float) -> None:
        """``numbers``: range -> newest attempt, as listed at ``now_seconds``."""
        for index, number in numbers.items():
            self.note_claim(index, number, now_seconds)

    def note_claim(
        self, index: int, number: int, now_seconds: float, worker: str | None = None
    ) -> None:
        """A claim exists; nothing happens if the range is done or a newer one is known."""
        known = self.claims.get(index)
        if self._states[index] != _DONE and (known is None or known.number < number):
            self._states[index] = _CLAIMED
            self.claims[index] = SeenClaim(number, now_seconds, worker)

    def free_ranges(self, limit: int) -> list[int]:
        """The first free ranges in the order of taking, at most ``limit`` of them."""
        free = list(islice(self._free_positions(), limit))
        self._position = free[0] if free else len(self._states)
        return [self._plan.taken_at(position) for position in free]

    @property
    def has_free(self) -> bool:
        """Whether a range is free, for all that is known."""
        return bool(self.free_ranges(1))

    def _free_positions(self) -> Iterator[int]:
        for position in range(self._position, len(self._states)):
            if self._states[self._plan.taken_at(position)] == _FREE:
                yield position
