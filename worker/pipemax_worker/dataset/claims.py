"""Which range this worker takes next.

Claims never decide a record, which the chain of segments alone does (``segments``); they keep two
workers from computing the same. So everything here may be old, or wrong about another worker: that
costs work, never a record.

A worker takes the first ranges that are free by its own picture of the ledger, which it looks up
only now and then. That several workers want the same range is avoided by picking among as many as
there are workers; whoever is refused picks among twice as many. Ranges of silent workers come
before free ones, for they were taken earlier and are the larger ones. In the end a worker with
nothing left waits for the others, and takes over from those who fall silent.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec

from pipemax_worker.contract.clock import Clock, MonotonicClock
from pipemax_worker.dataset.claim_picture import ClaimPicture, SeenClaim, blocks_of
from pipemax_worker.dataset.heartbeats import (
    ENDED,
    Heartbeat,
    HeartbeatLimits,
    SilenceWatch,
    mark_ended,
    read_beats,
)
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.dataset.ranges import InputRange
from pipemax_worker.dataset.records import Attempt
from pipemax_worker.dataset.workers import is_known_dead


class ClaimedRange(msgspec.Struct, frozen=True):
    """A range and this worker's turn at it."""

    input_range: InputRange
    attempt: Attempt


class ClaimLimits(msgspec.Struct, frozen=True):
    """How often the ledger is looked up: every ``refresh_seconds`` while there are free ranges,
    every ``waiting_refresh_seconds`` when there are none. Where a look takes more than one part in
    ``min_cost_ratio`` of that time it is taken less often, up to ``max_stretch`` times.

    max_claims_read   for each range taken, when looking for those of silent workers.
    max_refusals      claims refused in a row before the ledger is looked up again.
    """

    heartbeat: HeartbeatLimits = HeartbeatLimits()
    refresh_seconds: float = 30.0
    waiting_refresh_seconds: float = 5.0
    min_cost_ratio: float = 300.0
    max_stretch: float = 4.0
    max_claims_read: int = 4
    max_refusals: int = 3


class RangeClaims:
    """Claims one range after the other. Call :meth:`keep_alive` wherever the run's loop turns, and
    :meth:`close` at its end.

    A worker shows itself before its first claim, and claims are listed before workers. So a
    claimant that is not among the workers is gone.
    """

    def __init__(
        self,
        ledger: Ledger,
        worker: str,
        clock: Clock | None = None,
        limits: ClaimLimits | None = None,
    ) -> None:
        self._ledger = ledger
        self._worker = worker
        self._clock = clock or MonotonicClock()
        self._limits = limits or ClaimLimits()
        self._random = random.Random(worker)
        self._picture = ClaimPicture(ledger.ranges)
        self._watch = SilenceWatch(self._limits.heartbeat.silent_seconds)
        self._heartbeat = Heartbeat(ledger.store, worker, self._clock, self._limits.heartbeat)
        self._listed_blocks: set[int] = set()
        self._refreshed_seconds: float | None = None
        self._refresh_cost_seconds = 0.0
        self._jitter = 1.0

    @property
    def is_exhausted(self) -> bool:
        """Every range is done: there is none that this worker could take, now or later."""
        self._note_finished_here()
        return self._picture.is_done

    def keep_alive(self) -> None:
        """Show others that this worker's loop turns. Cheap when nothing is due; raises nothing."""
        self._heartbeat.beat_if_due()

    def close(self) -> None:
        """This worker takes no more: what it holds and is not done is others' at once."""
        self._heartbeat.end()

    def take(self, held: Collection[int] = ()) -> ClaimedRange | None:
        """The next range; None if there is none to be had now, which may change while
        :attr:`is_exhausted` is False. ``held``: ranges that this worker still has in hand.

        Raises OutputError.
        """
        self.keep_alive()
        self._note_finished_here()
        if self._is_waiting_for_itself(held):
            return None
        if self._is_refresh_due():
            self._refresh()
        return self._take_over(held) or self._take_free()

    def _note_finished_here(self) -> None:
        finished = self._ledger.finished_here
        if finished:
            self._picture.note_done(set(finished))
            finished.clear()

    def _is_waiting_for_itself(self, held: Collection[int]) -> bool:
        """Nothing is left but what this worker has in hand: no look at the ledger changes that."""
        is_known = self._refreshed_seconds is not None
        return is_known and not self._free_ranges() and all(i in held for i in self._picture.claims)

    # --- looking up the ledger

    def _is_refresh_due(self) -> bool:
        if self._refreshed_seconds is None:
            return True
        limits = self._limits
        has_free = bool(self._picture.free_ranges(1))
        wanted = limits.refresh_seconds if has_free else limits.waiting_refresh_seconds
        stretch = limits.min_cost_ratio * self._refresh_cost_seconds / wanted
        # The last look may have taken for ever: in it this worker may have been frozen.
        wanted *= min(max(stretch, 1.0), limits.max_stretch)
        return self._clock.now() - self._refreshed_seconds >= wanted * self._jitter

    def _refresh(self) -> None:
        start_seconds = self._clock.now()
        self._look_up(self._picture.open_blocks(self._num_wanted()))
        self._free_ranges()
        beats = read_beats(self._ledger.store)
        if self._refreshed_seconds is None:
            self._bury_predecessors(beats)
        self._refreshed_seconds = self._clock.now()
        self._refresh_cost_seconds = self._refreshed_seconds - start_seconds
        self._jitter = self._random.uniform(0.5, 1.5)
        self._watch.update(beats, self._refreshed_seconds)

    def _bury_predecessors(self, beats: dict[str, str]) -> None:
        """This node's workers of before, whose process is gone, need not be waited for. Only at the
        start: who comes later is no predecessor."""
        for worker, beat in beats.items():
            if beat != ENDED and is_known_dead(worker, self._worker):
                mark_ended(self._ledger.store, worker, beat)
                beats[worker] = ENDED

    def _look_up(self, blocks: Iterable[int]) -> None:
        for block in sorted(blocks):
            claims = self._ledger.claims.newest_numbers(block)
            self._picture.note_claims(claims, self._clock.now())
            self._picture.note_done(self._ledger.done_ranges(block))
            self._listed_blocks.add(block)

    def _free_ranges(self, num_wanted: int = 1) -> list[int]:
        """The first free ranges, none of a block that was never looked up."""
        while True:
            free = self._picture.free_ranges(num_wanted)
            unlisted = blocks_of(free) - self._listed_blocks
            if not unlisted:
                return free
            self._look_up(unlisted)

    def _num_wanted(self) -> int:
        """Among how many ranges to pick: alone, the first; else one for each worker and more."""
        num_workers = self._watch.num_alive
        return 1 if num_workers < 2 else 2 * num_workers

    # --- taking

    def _take_free(self) -> ClaimedRange | None:
        num_wanted, num_refusals = self._num_wanted(), 0
        while free := self._free_ranges(num_wanted):
            index = self._random.choice(self._of_like_size(free))
            if (claimed := self._try_claim(index, 1)) is not None:
                return claimed
            num_wanted, num_refusals = 2 * num_wanted, num_refusals + 1
            if num_refusals % self._limits.max_refusals == 0:
                self._refresh()
        return None

    def _of_like_size(self, free: Sequence[int]) -> list[int]:
        """The smaller ones must not be taken before the larger ones: they are for the end."""
        sizes = [self._ledger.ranges[index].size_bytes for index in free]
        return [index for index, size in zip(free, sizes, strict=True) if 2 * size > max(sizes)]

    def _take_over(self, held: Collection[int]) -> ClaimedRange | None:
        """A range whose claimant is silent, or which is claimed in this worker's own name though it
        has it not in hand: its earlier life's, or one whose claim was never answered."""
        for index, claim in self._suspects(held):
            if claim.worker == self._worker or self._watch.is_silent(claim.worker or ""):
                claimed = self._try_claim(index, claim.number + 1)
                if claimed is not None:
                    return claimed
        return None

    def _suspects(self, held: Collection[int]) -> Iterator[tuple[int, SeenClaim]]:
        """Claims of ranges that this worker has not in hand, in any order; some unread ones are
        read for it."""
        claims = [(i, claim) for i, claim in self._picture.claims.items() if i not in held]
        self._random.shuffle(claims)
        yield from [(i, claim) for i, claim in claims if claim.worker is not None]
        seen_before = self._unread_since_seconds()
        unread = [
            (i, claim)
            for i, claim in claims
            if claim.worker is None and claim.seen_seconds <= seen_before
        ]
        for index, claim in unread[: self._limits.max_claims_read]:
            found = self._ledger.claims.read(index, claim.number)
            claim.worker = found.attempt.worker if found else ""
            yield index, claim

    def _unread_since_seconds(self) -> float:
        """Claims seen later need not be read: those of silent workers are older, and so is, where
        nothing is left to do but to look, what nobody works on for some other reason. Who is alone
        reads all."""
        if self._watch.num_alive < 2:
            return math.inf
        if self._picture.free_ranges(1):
            return self._watch.newest_silence_seconds
        old_seconds = self._clock.now() - self._limits.heartbeat.silent_seconds
        return max(self._watch.newest_silence_seconds, old_seconds)

    def _try_claim(self, index: int, number: int) -> ClaimedRange | None:
        attempt = self._ledger.claims.try_claim(index, number, self._worker)
        worker = self._worker if attempt else None
        self._picture.note_claim(index, number, self._clock.now(), worker)
        return ClaimedRange(self._ledger.ranges[index], attempt) if attempt else None
