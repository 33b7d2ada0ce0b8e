"""Which range this worker takes next.

Claims never decide a record, which the chain of segments alone does (``segments``); they keep two
workers from computing the same.
"""

from __future__ import annotations

import msgspec

from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.dataset.ranges import InputRange
from pipemax_worker.dataset.records import Attempt


class ClaimedRange(msgspec.Struct, frozen=True):
    """A range and this worker's turn at it."""

    input_range: InputRange
    attempt: Attempt


class RangeClaims:
    """Claims one undone range after the other, in the order of the input.

    is_exhausted  there is no range left that this worker could take, now or later.
    """

    def __init__(self, ledger: Ledger, worker: str) -> None:
        self._ledger = ledger
        self._worker = worker
        done = ledger.done_ranges()
        self._ranges = iter(r for r in ledger.ranges if r.index not in done)
        self.is_exhausted = False

    def take(self) -> ClaimedRange | None:
        """The next range; None if there is none to be had now. Raises OutputError."""
        input_range = next(self._ranges, None)
        if input_range is None:
            self.is_exhausted = True
            return None
        return ClaimedRange(input_range, self._ledger.claim(input_range.index, self._worker))
