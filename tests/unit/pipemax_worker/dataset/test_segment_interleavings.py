"""Any number of attempts at one range, killed, frozen and woken at any store call, lose nothing.

Every attempt runs the real :class:`SegmentWriter` step by step; a seeded random picks whose step is
next, who is killed between two steps, who sleeps. At the end one more attempt finishes the range,
then the sleepers wake. The chain must hold every line's record once. The same search must find a
violation when put_if_absent, or a half of the chain's rule, is broken on purpose.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.records import make_failed_record, make_record
from kit.store import ManualClock, MemoryStore, OverwritingStore
from pipemax_worker.dataset.chain import segment_key
from pipemax_worker.dataset.records import Attempt, RecordHead
from pipemax_worker.dataset.segments import FlushLimits, SegmentWriter

NUM_INTERLEAVINGS = 20_000
NO_LIMITS = FlushLimits(max_records=10**9, max_bytes=10**9, max_age_seconds=1e9)


class ForgetfulWriter(SegmentWriter):
    """Broken: keeps its own copy of a record that it found in somebody else's segment."""

    def _take_in(self, head: RecordHead) -> None:
        kept = self._buffer.get(head.pipemax.offset)
        super()._take_in(head)
        if kept is not None and head.attempt != self.attempt:
            self._buffer[head.pipemax.offset] = kept


class BlindWriter(SegmentWriter):
    """Broken: takes the first free number without having read the chain."""

    def _next_key(self) -> str:
        number = len(self._segments)
        while self._store.exists(segment_key(self.range_index, number)):
            number += 1
        return segment_key(self.range_index, number)

    def open_steps(self) -> Iterator[None]:
        yield


class Range:
    """The range, its store and the attempts at it."""

    def __init__(
        self, rng: random.Random, store: MemoryStore, writer_class: type[SegmentWriter]
    ) -> None:
        self.rng = rng
        self.store = store
        self.writer_class = writer_class
        self.num_lines = rng.randint(1, 8)
        self.finished: list[SegmentWriter] = []

    def attempt(self, attempt: Attempt) -> Iterator[None]:
        """One life: read the chain, serve what it lacks in some order, flush now and then."""
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
        return None if sorted(failed) == sorted(copies) else "copies of errors differ"


def run_interleaving(
    seed: int,
    store: MemoryStore | None = None,
    writer_class: type[SegmentWriter] = SegmentWriter,
) -> str | None:
    """The violation that this interleaving ends with, or None."""
    rng = random.Random(seed)
    job = Range(rng, MemoryStore() if store is None else store, writer_class)
    num_attempts = rng.randint(2, 5)
    numbers = rng.sample(range(1, 10), num_attempts)
    awake = [job.attempt(Attempt(number, f"w{number}")) for number in numbers]
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
    last = job.attempt(Attempt(100, "last"))
    others = awake + asleep
    while next(last, "ended") != "ended":
        if others and rng.random() < 0.5:
            next(rng.choice(others), None)
    for zombie in others:
        for _ in zombie:
            pass
    if not any(writer.attempt.worker == "last" for writer in job.finished):
        return "the newest attempt did not finish the range"
    return job.violation()


def test_no_interleaving_loses_or_doubles_a_record() -> None:
    for seed in range(NUM_INTERLEAVINGS):
        assert run_interleaving(seed) is None, f"seed {seed}"


@given(st.integers(10**6, 10**9))
def test_nor_does_one_that_hypothesis_picks(seed: int) -> None:
    assert run_interleaving(seed) is None


@pytest.mark.parametrize("writer_class", [ForgetfulWriter, BlindWriter])
def test_half_of_the_rule_is_not_enough(writer_class: type[SegmentWriter]) -> None:
    violations = {run_interleaving(seed, writer_class=writer_class) for seed in range(200)}
    assert any("doubled" in violation for violation in violations if violation)


def test_without_put_if_absent_records_are_lost() -> None:
    violations = {run_interleaving(seed, OverwritingStore()) for seed in range(200)}
    assert any("lost" in violation for violation in violations if violation)


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
