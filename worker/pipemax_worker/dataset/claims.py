"""Which range this worker takes next.

Claims never decide a record, which the chain of segments alone does (``segments``); they keep two
workers from computing the same. So everything here may be old, or wrong about another worker: that
costs work, never a record.

A worker takes the first ranges that are free by its own picture of the ledger, which it looks up
only now and then. That several workers want the same range is avoided by picking among as many as
there are workers; whoever is refused looks up the ranges near it. Ranges of silent workers come
before free ones, for they were taken earlier and are the larger ones. In the end a worker with
nothing left waits for the others, and takes over from those who fall silent.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from pipemax_worker.contract.clock import Clock, MonotonicClock
from pipemax_worker.dataset.claim_picture import SeenClaim
from pipemax_worker.dataset.heartbeats import Heartbeat
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.dataset.ledger_view import ClaimLimits, LedgerView
from pipemax_worker.dataset.ranges import InputRange
from pipemax_worker.dataset.records import Attempt

__all__ = ["ClaimLimits", "ClaimedRange", "RangeClaims"]


class ClaimedRange(msgspec.Struct, frozen=True):
    """A range and this worker's turn at it."""

    input_range: InputRange
    attempt: Attempt


class RangeClaims:
    """Claims one range after the other. Call :meth:`keep_alive` wherever the run's loop turns, and
    :meth:`close` at its end.
    """

    def __init__(
        self,
        ledger: Ledger,
        worker: str,
        clock: Clock | None = None,
        limits: ClaimLimits | None = None,
        ended: Collection[str] = (),
    ) -> None:
        """``ended``: workers of which the caller knows that they have."""
        self._ledger = ledger
        self._worker = worker
        self._clock = clock or MonotonicClock()
        self._limits = limits or ClaimLimits()
        self._view = LedgerView(ledger, worker, self._clock, self._limits, ended)
        self._picture = self._view.picture
        self._random = self._view.random
        self._heartbeat = Heartbeat(ledger.store, worker, self._clock, self._limits.heartbeat)
        self._attempts: dict[int, int] = {}

    @property
    def is_exhausted(self) -> bool:
        """Every range is done: there is none that this worker could take, now or later."""
        self._view.note_finished_here()
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
        self._view.note_finished_here()
        if not self._view.is_new and self._is_waiting_for_itself(held):
            return None
        has_looked = self._view.refresh_if_due()
        claimed = self._take_left(held) or self._take_free()
        if claimed is None and (has_looked or self._is_alone):
            claimed = self._take_forgotten(held)
        if claimed is not None:
            self._attempts = {i: n for i, n in self._attempts.items() if i in held}
            self._attempts[claimed.input_range.index] = claimed.attempt.number
            self._heartbeat.show(self._attempts)
        return claimed

    @property
    def _is_alone(self) -> bool:
        """No other worker is known to work."""
        return self._view.watch.num_alive < 2

    def _is_waiting_for_itself(self, held: Collection[int]) -> bool:
        """Nothing is left but what this worker has in hand: no look at the ledger changes that."""
        return not self._picture.has_free and all(i in held for i in self._picture.claims)

    def _take_free(self) -> ClaimedRange | None:
        num_wanted = self._num_wanted()
        while free := self._of_like_size(self._picture.free_ranges(num_wanted)):
            index = self._random.choice(free)
            if (claimed := self._try_claim(index, 1)) is not None:
                return claimed
            self._view.look_up_claims(index)  # one refusal comes seldom alone
        return None

    def _num_wanted(self) -> int:
        """Among how many ranges to pick: alone, the first; else one for each worker and more."""
        return 1 if self._is_alone else 2 * self._view.watch.num_alive

    def _of_like_size(self, free: Sequence[int]) -> list[int]:
        """The smaller ones must not be taken before the larger ones: they are for the end."""
        sizes = [self._ledger.ranges[index].size_bytes for index in free]
        least = max(sizes, default=0) / 2
        return [index for index, size in zip(free, sizes, strict=True) if size > least]

    def _take_left(self, held: Collection[int]) -> ClaimedRange | None:
        """A range that a silent worker had in hand, or that was taken from this one while it was
        frozen, by a worker that is silent now."""
        left = self._view.left_ranges
        while candidates := [index for index in left if index not in held]:
            index = self._random.choice(candidates)
            if (claimed := self._try_take_over(index, left.pop(index))) is not None:
                return claimed
        return None

    def _take_forgotten(self, held: Collection[int]) -> ClaimedRange | None:
        """With nothing else to do: a range that is claimed for long by one who is not there, or in
        this worker's own name though it has it not in hand (a claim that was never answered)."""
        claims = [(i, claim) for i, claim in self._picture.claims.items() if i not in held]
        self._random.shuffle(claims)
        num_read = 0
        for index, claim in claims:
            if claim.worker is None:
                if num_read == self._limits.max_claims_read or not self._is_old(claim):
                    continue
                num_read += 1
                found = self._ledger.claims.read(index, claim.number)
                claim.worker = found.attempt.worker if found else ""
            if self._is_nobodys(claim):
                claimed = self._try_take_over(index, claim.number)
                if claimed is not None:
                    return claimed
        return None

    def _is_old(self, claim: SeenClaim) -> bool:
        """Claimed for longer than it takes to find a worker silent. Who is alone need not wait."""
        age_seconds = self._clock.now() - claim.seen_seconds
        return self._is_alone or age_seconds >= self._limits.heartbeat.silent_seconds

    def _is_nobodys(self, claim: SeenClaim) -> bool:
        if claim.worker == self._worker:
            return True
        # A worker shows itself before its first claim: one that is not among those that were seen
        # since is gone.
        watch = self._view.watch
        return watch.updated_seconds >= claim.seen_seconds and watch.is_silent(claim.worker or "")

    def _try_take_over(self, index: int, number: int) -> ClaimedRange | None:
        known = self._picture.claims.get(index)
        if self._picture.is_known_done(index) or (known is not None and known.number > number):
            return None
        if self._view.look_up_done(index):
            return None
        return self._try_claim(index, number + 1)

    def _try_claim(self, index: int, number: int) -> ClaimedRange | None:
        attempt = self._ledger.claims.try_claim(index, number, self._worker)
        worker = self._worker if attempt else None
        self._picture.note_claim(index, number, self._clock.now(), worker)
        return ClaimedRange(self._ledger.ranges[index], attempt) if attempt else None
