"""Who takes which range: free ones, those of the silent, and none twice while all are alive."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from kit.store import FailingStore, ManualClock, MemoryStore
from pipemax_worker.dataset import ledger_view
from pipemax_worker.dataset.chain import RangeSummary
from pipemax_worker.dataset.claims import ClaimedRange, ClaimLimits, RangeClaims
from pipemax_worker.dataset.fingerprint import build_fingerprint
from pipemax_worker.dataset.heartbeats import HeartbeatLimits
from pipemax_worker.dataset.inputs import InputFile
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.dataset.records import Attempt, RecordCounts
from pipemax_worker.errors import OutputError

LIMITS = ClaimLimits(heartbeat=HeartbeatLimits(interval_seconds=10.0, silent_seconds=60.0))


class Worker:
    """A worker's claims, and the ranges that it has in hand."""

    def __init__(
        self,
        store: ObjectStore,
        name: str,
        clock: ManualClock,
        num_ranges: int = 4,
        ended: Collection[str] = (),
    ) -> None:
        files = [InputFile("a.jsonl", 100 * num_ranges, "hash")]
        self.ledger = Ledger.open_or_create(store, files, build_fingerprint(), 100)
        self.claims = RangeClaims(self.ledger, name, clock, LIMITS, ended)
        self.held: dict[int, Attempt] = {}

    def take(self) -> int | None:
        claimed = self.claims.take(self.held)
        if claimed is None:
            return None
        self.held[claimed.input_range.index] = claimed.attempt
        return claimed.input_range.index

    def take_all(self) -> list[int]:
        taken = []
        while (index := self.take()) is not None:
            taken.append(index)
        return taken

    def finish(self, *indices: int) -> None:
        for index in indices:
            del self.held[index]
            self.ledger.finish(RangeSummary(index, RecordCounts(1), ()))


def _let_time_pass(clock: ManualClock, seconds: float, alive: Collection[Worker]) -> None:
    """Their loops turn meanwhile."""
    for _ in range(int(seconds)):
        clock.seconds += 1.0
        for worker in alive:
            worker.claims.keep_alive()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_one_worker_takes_all_in_order_and_ends_when_they_are_done(clock: ManualClock) -> None:
    store = MemoryStore()
    worker = Worker(store, "a", clock)
    assert worker.take_all() == [0, 1, 2, 3]
    assert not worker.claims.is_exhausted, "they are in hand"
    worker.finish(0, 1, 2)
    assert not worker.claims.is_exhausted
    worker.finish(3)
    assert worker.claims.is_exhausted


def test_who_waits_for_itself_does_not_ask_the_store(clock: ManualClock) -> None:
    store = MemoryStore()
    worker = Worker(store, "a", clock)
    worker.take_all()
    before = len(store.writes)
    store.list = None  # type: ignore[assignment,method-assign]
    for _ in range(100):
        clock.seconds += 0.05
        assert worker.take() is None
    assert len(store.writes) == before


def test_workers_that_are_alive_never_hold_the_same_range(clock: ManualClock) -> None:
    store = MemoryStore()
    workers = [Worker(store, f"w{number}", clock, num_ranges=200) for number in range(8)]
    taken = [index for _ in range(25) for worker in workers if (index := worker.take()) is not None]
    assert sorted(taken) == list(range(200))
    assert {a.number for worker in workers for a in worker.held.values()} == {1}


def test_a_worker_with_nothing_left_waits_while_the_others_work(clock: ManualClock) -> None:
    store = MemoryStore()
    busy, idle = Worker(store, "busy", clock), Worker(store, "idle", clock)
    busy.take_all()
    for _ in range(100):
        _let_time_pass(clock, 10, [busy, idle])
        assert idle.take() is None
        assert not idle.claims.is_exhausted
    busy.finish(0, 1, 2, 3)
    _let_time_pass(clock, 13, [busy, idle])
    assert idle.take() is None
    assert idle.claims.is_exhausted


def test_ranges_of_a_silent_worker_are_taken_over_by_a_newer_attempt(clock: ManualClock) -> None:
    store = MemoryStore()
    killed, other = Worker(store, "killed", clock), Worker(store, "other", clock)
    killed.take()
    killed.take()
    assert other.take_all() == [2, 3]
    _let_time_pass(clock, 55, [other])
    assert other.take() is None
    _let_time_pass(clock, 15, [other])
    assert sorted(other.take_all()) == [0, 1]
    assert other.held[0] == Attempt(2, "other")


def test_they_are_taken_before_free_ones(clock: ManualClock) -> None:
    store = MemoryStore()
    killed = Worker(store, "killed", clock, num_ranges=50)
    other = Worker(store, "other", clock, num_ranges=50)
    (lost,) = [killed.take()]
    for _ in range(10):
        other.take()
        _let_time_pass(clock, 10, [other])
    assert lost in other.held
    assert len(other.held) == 10


def test_a_worker_that_wakes_up_goes_on_with_other_ranges(clock: ManualClock) -> None:
    store = MemoryStore()
    frozen, other = Worker(store, "frozen", clock, 3), Worker(store, "other", clock, 3)
    frozen.take()
    other.take()
    _let_time_pass(clock, 61, [other])
    other.take()
    assert 0 in other.held, "the frozen one's"
    del frozen.held[0]  # its writer found it lost
    assert frozen.take() == 2
    assert frozen.take() is None
    _let_time_pass(clock, 200, [frozen, other])
    assert other.take() is None, "it is alive again"


def test_a_worker_that_ended_need_not_fall_silent(clock: ManualClock) -> None:
    store = MemoryStore()
    leaver, other = Worker(store, "leaver", clock), Worker(store, "other", clock)
    leaver.take()
    other.take_all()
    leaver.claims.close()
    _let_time_pass(clock, 13, [other])
    assert other.take() == 0


def test_who_was_frozen_while_looking_looks_again_soon(clock: ManualClock) -> None:
    class FreezingStore(MemoryStore):
        freeze_seconds = 0.0

        def list(self, prefix: str) -> list[str]:
            clock.seconds += self.freeze_seconds
            return super().list(prefix)

    store = FreezingStore()
    other, frozen = Worker(store, "other", clock), Worker(store, "frozen", clock)
    other.take_all()
    store.freeze_seconds = 3600.0
    assert frozen.take() is None
    store.freeze_seconds = 0.0
    other.claims.keep_alive()
    other.finish(0, 1, 2, 3)
    _let_time_pass(clock, 31, [frozen])
    frozen.take()
    assert frozen.claims.is_exhausted


def test_two_that_notice_a_silence_share_what_is_left(clock: ManualClock) -> None:
    store = MemoryStore()
    killed = Worker(store, "killed", clock, 40)
    others = [Worker(store, name, clock, 40) for name in ("x", "y")]
    killed.take_all()
    for worker in others:
        assert worker.take() is None
    _let_time_pass(clock, 70, others)
    for _ in range(40):
        for worker in others:
            worker.take()
    held = sorted(index for worker in others for index in worker.held)
    assert held == list(range(40))
    assert all(len(worker.held) > 5 for worker in others)


def test_the_next_life_on_a_node_does_not_wait_for_the_last(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also beside another worker that is alive, whose ranges it leaves alone."""
    store = MemoryStore()
    neighbour = Worker(store, "neighbour", clock)
    neighbour.take()
    killed = Worker(store, "killed", clock)
    killed.take_all()
    monkeypatch.setattr(ledger_view, "is_known_dead", lambda worker, _: worker == "killed")
    restarted = Worker(store, "restarted", clock)
    assert sorted(restarted.take_all()) == [1, 2, 3]
    assert restarted.held[1].number == 2
    clock.seconds += 1.0
    third = Worker(store, "third", clock)
    assert third.take() is None
    assert store.exists("ledger/workers/killed.ended")


def test_who_takes_up_what_another_one_has_parked_takes_its_ranges_first(
    clock: ManualClock,
) -> None:
    """Of another node, as far as names tell: nobody else would know that it has ended."""
    store = MemoryStore()
    parker = Worker(store, "parker", clock, 8)
    taken = {parker.take(), parker.take()}
    neighbour = Worker(store, "neighbour", clock, 8)
    held = {neighbour.take(), neighbour.take()}
    adopter = Worker(store, "adopter", clock, 8, ended=["", "parker"])
    assert {adopter.take(), adopter.take()} == taken
    assert {attempt.number for attempt in adopter.held.values()} == {2}
    assert not held & set(adopter.take_all())
    assert store.exists("ledger/workers/parker.ended")


def test_who_is_alone_takes_everything_at_once(clock: ManualClock) -> None:
    """The last run ended without a word, and its heartbeats were removed."""
    store = MemoryStore()
    Worker(store, "before", clock).take_all()
    for key in store.list("ledger/workers/"):
        store.delete(key)
    assert Worker(store, "now", clock).take_all() != []


def test_a_claim_whose_answer_was_lost_is_not_nobodys_for_ever(clock: ManualClock) -> None:
    """The claim stands in the store in the name of a worker that does not know, beside others."""
    store = FailingStore()
    worker, other = Worker(store, "a", clock), Worker(store, "b", clock)
    other.take()
    worker.take()
    store.is_failing = store.fails_after_write = True
    with pytest.raises(OutputError):
        worker.take()
    store.is_failing = False
    worker.take()
    assert worker.take() is None
    assert len(worker.held) == 2
    _let_time_pass(clock, 70, [worker, other])
    while (index := worker.take()) is None:
        _let_time_pass(clock, 1, [worker, other])
    assert worker.held[index].number == 2
    assert sorted([*worker.held, *other.held]) == [0, 1, 2, 3]


def test_a_claim_that_cannot_be_read_is_nobodys(clock: ManualClock) -> None:
    store = MemoryStore()
    Worker(store, "before", clock)
    store.put("ledger/claims/00000002-000001", b"garbage")
    worker = Worker(store, "now", clock)
    assert sorted(worker.take_all()) == [0, 1, 2, 3]
    assert worker.held[2].number == 2


def test_ranges_that_are_done_are_not_taken(clock: ManualClock) -> None:
    store = MemoryStore()
    first = Worker(store, "first", clock)
    first.take()
    first.take()
    first.finish(0, 1)
    first.claims.close()
    assert sorted(Worker(store, "next", clock).take_all()) == [2, 3]


def test_many_ranges_are_looked_up_block_by_block(clock: ManualClock) -> None:
    store = MemoryStore()
    first = Worker(store, "first", clock, num_ranges=2500)
    for _ in range(1700):
        index = first.take()
        assert index is not None
        if index % 100:
            first.finish(index)
    first.claims.close()
    second = Worker(store, "second", clock, num_ranges=2500)
    taken = second.take_all()
    assert sorted(taken) == sorted([*range(0, 1700, 100), *range(1700, 2500)])
    assert second.held[1600].number == 2


def test_a_finished_job_leaves_nothing_to_take(clock: ManualClock) -> None:
    store = MemoryStore()
    first = Worker(store, "first", clock)
    first.finish(*first.take_all())
    second = Worker(store, "second", clock)
    assert second.take() is None
    assert second.claims.is_exhausted


def test_an_empty_plan_is_exhausted() -> None:
    worker = Worker(MemoryStore(), "a", ManualClock(), num_ranges=0)
    assert worker.claims.is_exhausted
    assert worker.take() is None


def test_a_claimed_range_says_what_and_which_turn(clock: ManualClock) -> None:
    worker = Worker(MemoryStore(), "a", clock)
    claimed = worker.claims.take()
    assert claimed == ClaimedRange(worker.ledger.ranges[0], Attempt(1, "a"))
