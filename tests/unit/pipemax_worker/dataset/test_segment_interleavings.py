"""Any number of attempts at one range, killed, frozen and woken at any store call, lose nothing.

Every attempt takes the range by the real claims and runs the real :class:`SegmentWriter`, step by
step; a seeded random picks whose step is next, who is killed between two steps, who sleeps. Whoever
finishes marks the range as done. At the end one more attempt takes the range over, and the sleepers
wake, some of whom take it in their turn. The chain must hold every line's record once, and whoever
has claimed last must have finished the range. The same search must find a violation when any one of
the rules is broken on purpose: put-if-absent, each part of the chain's rule, each of the claims'.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Generator, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.records import make_failed_record, make_record
from kit.store import ManualClock, MemoryStore, OverwritingStore
from pipemax_worker.dataset.chain import RESULTS_PREFIX, segment_key
from pipemax_worker.dataset.claim_log import CLAIMS_PREFIX, ClaimLog
from pipemax_worker.dataset.records import Attempt, RecordHead, read_records
from pipemax_worker.dataset.segments import FlushLimits, SegmentWriter

NUM_INTERLEAVINGS = 20_000
NUM_WITH_A_BROKEN_RULE = 400
NO_LIMITS = FlushLimits(max_records=10**9, max_bytes=10**9, max_age_seconds=1e9)
DONE_KEY = "ledger/done/00000000.json"


class WatchedStore(MemoryStore):
    """Notes who found a newer attempt's segment, and whether he wrote another one after it."""

    def __init__(self) -> None:
        super().__init__()
        self.must_leave: set[Attempt] = set()
        self.stayed: set[Attempt] = set()

    def put_if_absent(self, key: str, data: bytes) -> bool:
        created = super().put_if_absent(key, data)
        if key.startswith(RESULTS_PREFIX):
            writer = _attempt_of(data)
            if created and writer in self.must_leave:
                self.stayed.add(writer)
            if _attempt_of(self.objects[key]) > writer:
                self.must_leave.add(writer)
        return created


def _attempt_of(data: bytes) -> Attempt:
    return next(head.attempt for head, _ in read_records("", data))


class ForgetfulWriter(SegmentWriter):
    """Broken: does not drop what it holds twice, a record that it found in another's segment."""

    def _take_in(self, head: RecordHead) -> None:
        kept = self._buffer.get(head.pipemax.offset)
        super()._take_in(head)
        if kept is not None and head.attempt != self.attempt:
            self._buffer[head.pipemax.offset] = kept


class BlindWriter(SegmentWriter):
    """Broken: does not read before it writes, but takes the first free number."""

    def _next_key(self) -> str:
        number = len(self._segments)
        while self._store.exists(segment_key(self.range_index, number)):
            number += 1
        return segment_key(self.range_index, number)

    def open_steps(self) -> Iterator[None]:
        yield


class StubbornWriter(SegmentWriter):
    """Broken: does not leave the range to a newer attempt."""

    def flush_steps(self) -> Iterator[None]:
        mine, self.attempt = self.attempt, Attempt(10**9, "")
        yield from super().flush_steps()
        self.attempt = mine


class TimidWriter(SegmentWriter):
    """Broken: leaves the range to an older attempt too."""

    def flush_steps(self) -> Iterator[None]:
        mine, self.attempt = self.attempt, Attempt(0, "")
        before = len(self._segments)
        for _ in super().flush_steps():
            yield
        self.attempt = mine
        self.is_lost = self.is_lost and not self._wrote_all_since(before)

    def _wrote_all_since(self, before: int) -> bool:
        keys = [segment.key for segment in self._segments[before:]]
        return all(_attempt_of(self._store.get(key)) == self.attempt for key in keys)


class OverwrittenClaims(ClaimLog):
    """Broken: claims are put, not put if absent: two may have one number."""

    def try_claim(self, range_index: int, number: int, worker: str) -> Attempt | None:
        self._store.delete(f"{CLAIMS_PREFIX}{range_index:08d}-{number:06d}")
        return super().try_claim(range_index, number, worker)


class DeletedClaims(ClaimLog):
    """Broken: claims are deleted now and then, and their numbers given again."""

    def newest_number(self, range_index: int) -> int:
        newest = super().newest_number(range_index)
        if newest >= 2:
            for key in self._store.list(CLAIMS_PREFIX):
                self._store.delete(key)
            return 0
        return newest


class Range:
    """The range, its store and the attempts at it."""

    def __init__(
        self,
        rng: random.Random,
        store: MemoryStore,
        writer_class: type[SegmentWriter],
        claims_class: type[ClaimLog],
    ) -> None:
        self.rng = rng
        self.store = store
        self.claims = claims_class(store)
        self.writer_class = writer_class
        self.num_lines = rng.randint(1, 8)
        self.finished: list[SegmentWriter] = []
        self.last_claimant = ""

    def attempt(self, worker: str) -> Iterator[None]:
        """One life: claim, read the chain, serve what it lacks in some order, flush now and then,
        mark the range as done. It may sleep before, so that it claims late."""
        while self.rng.random() < 0.5:
            yield
        attempt = yield from self._claim(worker)
        writer = self.writer_class(self.store, 0, attempt, ManualClock(), NO_LIMITS)
        yield from writer.open_steps()
        todo = [offset for offset in range(self.num_lines) if offset not in writer.recorded]
        self.rng.shuffle(todo)
        for offset in todo:
            make = make_failed_record if offset % 3 == 0 else make_record
            writer.append(make(offset))
            if self.rng.random() < 0.4:
                yield from writer.flush_steps()
            if writer.is_lost:
                return
        yield from writer.flush_steps()
        if not writer.is_lost:
            self.finished.append(writer)
            yield
            self.store.put_if_absent(DONE_KEY, b"{}")

    def _claim(self, worker: str) -> Generator[None, None, Attempt]:
        while True:
            number = self.claims.newest_number(0) + 1
            yield
            if (attempt := self.claims.try_claim(0, number, worker)) is not None:
                self.last_claimant = worker
                return attempt
            yield

    def violation(self) -> str | None:
        """What is wrong with the chain, in words."""
        keys = self.store.list("results/")
        if keys != [segment_key(0, number) for number in range(len(keys))]:
            return f"the chain has a gap: {keys}"
        lines = [line for key in keys for line in self.store.get(key).splitlines()]
        counts = Counter(json.loads(line)["pipemax"]["offset"] for line in lines)
        if set(counts) != set(range(self.num_lines)):
            return f"lost: {set(range(self.num_lines)) - set(counts)}"
        if max(counts.values()) > 1:
            return f"doubled: {counts}"
        if any(len(writer.recorded) != self.num_lines for writer in self.finished):
            return "an attempt thought the range complete, and it was not"
        failed = [line for line in lines if json.loads(line)["error"]]
        copies = [
            line for key in self.store.list("errors/") for line in self.store.get(key).splitlines()
        ]
        if sorted(failed) != sorted(copies):
            return "copies of errors differ"
        if not any(writer.attempt.worker == self.last_claimant for writer in self.finished):
            return "abandoned: who claimed the range last has left it"
        if isinstance(self.store, WatchedStore) and self.store.stayed:
            return f"stayed, though a newer attempt was there: {self.store.stayed}"
        return None


def run_interleaving(
    seed: int,
    store: MemoryStore | None = None,
    writer_class: type[SegmentWriter] = SegmentWriter,
    claims_class: type[ClaimLog] = ClaimLog,
) -> str | None:
    """The violation that this interleaving ends with, or None."""
    rng = random.Random(seed)
    job = Range(rng, WatchedStore() if store is None else store, writer_class, claims_class)
    awake = [job.attempt(f"w{number}") for number in rng.sample(range(1, 10), rng.randint(2, 5))]
    asleep: list[Iterator[None]] = []
    for _ in range(rng.randint(5, 80)):
        if not awake:
            break
        chosen = rng.choice(awake)
        fate = rng.random()
        if fate < 0.03:
            awake.remove(chosen)  # killed between two store calls
        elif fate < 0.08:
            awake.remove(chosen)
            asleep.append(chosen)
        elif next(chosen, "ended") == "ended":
            awake.remove(chosen)
        if asleep and rng.random() < 0.05:
            awake.append(asleep.pop(rng.randrange(len(asleep))))
    last = job.attempt("last")
    others = awake + asleep
    while next(last, "ended") != "ended":
        if others and rng.random() < 0.5:
            next(rng.choice(others), None)
    for zombie in others:
        for _ in zombie:
            pass
    return job.violation()


def test_no_interleaving_loses_or_doubles_a_record() -> None:
    for seed in range(NUM_INTERLEAVINGS):
        assert run_interleaving(seed) is None, f"seed {seed}"


@given(st.integers(10**6, 10**9))
def test_nor_does_one_that_hypothesis_picks(seed: int) -> None:
    assert run_interleaving(seed) is None


@pytest.mark.parametrize(
    ("writer_class", "violation"),
    [
        (BlindWriter, "doubled"),
        (ForgetfulWriter, "doubled"),
        (StubbornWriter, "stayed"),
        (TimidWriter, "abandoned"),
    ],
)
def test_each_part_of_the_chains_rule_is_needed(
    writer_class: type[SegmentWriter], violation: str
) -> None:
    assert violation in _violations(writer_class=writer_class)


@pytest.mark.parametrize("claims_class", [OverwrittenClaims, DeletedClaims])
def test_each_rule_of_the_claims_is_needed(claims_class: type[ClaimLog]) -> None:
    violations = _violations(claims_class=claims_class)
    assert "abandoned" in violations
    assert not violations & {"lost", "doubled"}, "claims decide no record, even broken ones"


def test_without_put_if_absent_records_are_lost() -> None:
    found = (run_interleaving(seed, OverwritingStore()) for seed in range(NUM_WITH_A_BROKEN_RULE))
    assert any(violation.startswith("lost") for violation in found if violation)


def _violations(
    writer_class: type[SegmentWriter] = SegmentWriter, claims_class: type[ClaimLog] = ClaimLog
) -> set[str]:
    """The first words of what a search with a broken rule finds."""
    found = (
        run_interleaving(seed, writer_class=writer_class, claims_class=claims_class)
        for seed in range(NUM_WITH_A_BROKEN_RULE)
    )
    return {violation.partition(":")[0].partition(",")[0] for violation in found if violation}


def test_the_interleavings_meet_taken_segments_and_newer_attempts() -> None:
    """The search is only worth something if it reaches the branches of the rule."""
    met = Counter[str]()

    class WatchedWriter(SegmentWriter):
        def _clear_buffer(self) -> None:
            met["left"] += 1
            super()._clear_buffer()

        def _take_in(self, head: RecordHead) -> None:
            if head.attempt != self.attempt and head.pipemax.offset in self._buffer:
                met["dropped"] += 1
            super()._take_in(head)

    for seed in range(200):
        run_interleaving(seed, writer_class=WatchedWriter)
    assert met["left"] > 20
    assert met["dropped"] > 20
