"""What one worker looks up in the ledger, and when: who lives, what is claimed, what is done.

Listing is dear: a page of a thousand keys takes a store as long as dozens of small reads, and 64
workers look. So all of the ledger is listed once, at the start. After that a worker lists only the
workers now and then, learns what a silent one had in hand from its last sign of life, and goes over
claimed ranges little by little, a hundred at a time, to see which are done.
"""

from __future__ import annotations

import random
from collections.abc import Collection

import msgspec

from pipemax_worker.contract.clock import Clock
from pipemax_worker.dataset.claim_log import RANGES_PER_BLOCK
from pipemax_worker.dataset.claim_picture import ClaimPicture
from pipemax_worker.dataset.heartbeats import (
    ENDED,
    HeartbeatLimits,
    SilenceWatch,
    mark_ended,
    read_beats,
    read_held,
)
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.dataset.workers import is_known_dead


class ClaimLimits(msgspec.Struct, frozen=True):
    """How often the ledger is looked up: every ``refresh_seconds`` while there are free ranges,
    every ``waiting_refresh_seconds`` when there are none. Where a look takes more than one part in
    ``min_cost_ratio`` of that time it is taken less often, up to ``max_stretch`` times.

    max_claims_read   for each look, when nothing is free: whose the claimed ranges are.
    """

    heartbeat: HeartbeatLimits = HeartbeatLimits()
    refresh_seconds: float = 30.0
    waiting_refresh_seconds: float = 8.0
    min_cost_ratio: float = 300.0
    max_stretch: float = 4.0
    max_claims_read: int = 4


class LedgerView:
    """``picture`` and ``watch`` are this worker's own; the ledger may be further.

    left_ranges   index -> attempt's number: what silent workers had in hand when last heard of.
    """

    def __init__(
        self,
        ledger: Ledger,
        worker: str,
        clock: Clock,
        limits: ClaimLimits,
        ended: Collection[str] = (),
    ) -> None:
        self._ended = frozenset(ended)
        self.picture = ClaimPicture(ledger.ranges)
        self.watch = SilenceWatch(limits.heartbeat.silent_seconds)
        self.left_ranges: dict[int, int] = {}
        self.random = random.Random(worker)
        self._ledger = ledger
        self._worker = worker
        self._clock = clock
        self._limits = limits
        self._refreshed_seconds: float | None = None
        self._refresh_cost_seconds = 0.0
        self._jitter = 1.0
        self._last_near = ""  # where ranges were last looked at for being done

    @property
    def is_new(self) -> bool:
        """Nothing was looked up yet."""
        return self._refreshed_seconds is None

    def refresh_if_due(self) -> bool:
        """Look again if it is time; whether it was. Raises OutputError."""
        if self._refreshed_seconds is not None and not self._is_due(self._refreshed_seconds):
            return False
        start_seconds = self._clock.now()
        if self._refreshed_seconds is None:
            self._look_at_all()
        else:
            self._look_at_some()
        self._refreshed_seconds = self._clock.now()
        self._refresh_cost_seconds = self._refreshed_seconds - start_seconds
        self._jitter = self.random.uniform(0.5, 1.5)
        return True

    def note_finished_here(self) -> None:
        """Take over what this process has marked as done."""
        if self._ledger.finished_here:
            self.picture.note_done(set(self._ledger.finished_here))
            self._ledger.finished_here.clear()

    def look_up_done(self, index: int) -> bool:
        """Whether the range is done by now. Raises OutputError."""
        done = self._ledger.done_ranges_with(f"{index:08d}")
        self.picture.note_done(done)
        return bool(done)

    def look_up_claims(self, index: int) -> None:
        """Of this range and those near it. Raises OutputError."""
        numbers = self._ledger.claims.newest_numbers_with(_near(index))
        self.picture.note_claims(numbers, self._clock.now())

    def _is_due(self, refreshed_seconds: float) -> bool:
        limits = self._limits
        wanted = limits.waiting_refresh_seconds
        if self.picture.has_free:
            wanted = limits.refresh_seconds
        stretch = limits.min_cost_ratio * self._refresh_cost_seconds / wanted
        # The last look may have taken for ever: in it this worker may have been frozen.
        wanted *= min(max(stretch, 1.0), limits.max_stretch)
        return self._clock.now() - refreshed_seconds >= wanted * self._jitter

    def _look_at_all(self) -> None:
        """Claims before workers: who has claimed one of them has shown himself before."""
        for block in range(-(-len(self._ledger.ranges) // RANGES_PER_BLOCK)):
            numbers = self._ledger.claims.newest_numbers(block)
            self.picture.note_claims(numbers, self._clock.now())
            self.picture.note_done(self._ledger.done_ranges(block))
        beats = read_beats(self._ledger.store)
        for worker, beat in list(beats.items()):
            if beat != ENDED and self._is_over(worker):
                # This node's worker of before. Only now: who comes later is no predecessor.
                self.left_ranges |= read_held(self._ledger.store, worker, beat)
                mark_ended(self._ledger.store, worker, beat)
                beats[worker] = ENDED
        self.watch.update(beats, self._clock.now())

    def _is_over(self, worker: str) -> bool:
        return worker in self._ended or is_known_dead(worker, self._worker)

    def _look_at_some(self) -> None:
        beats = read_beats(self._ledger.store)
        for worker, beat in self.watch.update(beats, self._clock.now()).items():
            self.left_ranges |= read_held(self._ledger.store, worker, beat)
        self._look_for_done()

    def _look_for_done(self) -> None:
        """Of the claimed ranges a hundred after the other, round and round; while there is nothing
        else to do, all of them."""
        claims = self.picture.claims.items()
        near = sorted({_near(i) for i, claim in claims if claim.worker != self._worker})
        if self.picture.has_free and near:
            near = [next((digits for digits in near if digits > self._last_near), near[0])]
            self._last_near = near[0]
        for digits in near:
            self.picture.note_done(self._ledger.done_ranges_with(digits))


def _near(index: int) -> str:
    """The digits that the keys of a hundred ranges have in common."""
    return f"{index:08d}"[:6]
