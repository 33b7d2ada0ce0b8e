"""What all workers together have finished, for the progress that one of them tells."""

from __future__ import annotations

import threading

from pipemax_worker.contract.clock import Clock
from pipemax_worker.dataset.chain import RangeSummary
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.errors import PipemaxError
from pipemax_worker.telemetry.work_totals import WorkTotals

MIN_INTERVAL_SECONDS = 1.0
MIN_COST_RATIO = 20.0
"""Time between two looks over the time that a look takes: the store has others to serve."""


def totals_of_done(summary: RangeSummary, size_bytes: int) -> WorkTotals:
    """Of one range that is done; ``size_bytes`` of the input."""
    counts = summary.counts
    return WorkTotals(
        num_done=counts.num_records,
        num_failed=counts.failed,
        prompt_tokens=counts.prompt_tokens,
        generated_tokens=counts.completion_tokens,
        bytes_done=size_bytes,
        num_read=counts.num_records,
        bytes_read=size_bytes,
    )


class DoneRangesTotals:
    """Reads from the ledger what is new since the last look, each range once.

    For the threads that serve ``/progress``, so that the run itself never waits for it. It only
    reads: the run's own ledger may be used for it.
    """

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._lock = threading.Lock()
        self._known: set[int] = set()
        self._totals = WorkTotals()
        self._next_seconds = float("-inf")

    def read(self) -> WorkTotals:
        """The newest that is known; looks anew if it is time and no other thread does. A store that
        does not answer is the run's affair: then the last answer stays."""
        if self._lock.acquire(blocking=False):
            try:
                self._look_if_due()
            finally:
                self._lock.release()
        return self._totals

    def _look_if_due(self) -> None:
        start_seconds = self._clock.now()
        if start_seconds < self._next_seconds:
            return
        try:
            for summary in self._ledger.summaries(self._known):
                size_bytes = self._ledger.ranges[summary.range_index].size_bytes
                self._totals += totals_of_done(summary, size_bytes)
                self._known.add(summary.range_index)
        except PipemaxError:
            pass  # told by whoever writes there
        end_seconds = self._clock.now()
        wait_seconds = max(MIN_INTERVAL_SECONDS, MIN_COST_RATIO * (end_seconds - start_seconds))
        self._next_seconds = end_seconds + wait_seconds
