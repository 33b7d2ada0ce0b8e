"""What all workers together have finished: read seldom, each range once."""

from collections.abc import Callable

from kit.fake_reading import Reading
from kit.jobs import JobFolder, text_lines
from kit.store import ManualClock, MemoryStore
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.errors import OutputError
from pipemax_worker.runner.done_ranges_totals import (
    MIN_COST_RATIO,
    MIN_INTERVAL_SECONDS,
    DoneRangesTotals,
)


class WatchedStore(MemoryStore):
    """Counts what is read; its listing can take time, or fail."""

    def __init__(self) -> None:
        super().__init__()
        self.num_gets = 0
        self.is_failing = False
        self.on_list: Callable[[], None] = lambda: None

    def get(self, key: str) -> bytes:
        self.num_gets += 1
        return super().get(key)

    def list(self, prefix: str) -> list[str]:
        if self.is_failing:
            raise OutputError("memory: the store fails")
        self.on_list()
        return super().list(prefix)


def begin(job: JobFolder, store: WatchedStore) -> Reading:
    """A job of four ranges."""
    for number in range(4):
        job.write_input(text_lines(10), f"{number}.jsonl")
    return Reading(job, store, changes={"input.uri": "*.jsonl"})


def test_of_other_workers_too(job: JobFolder) -> None:
    store = WatchedStore()
    reading, clock = begin(job, store), ManualClock()
    observer = DoneRangesTotals(Ledger.load(store), clock)
    assert observer.read().num_done == 0
    reading.run()
    assert observer.read().num_done == 0, "too early for another look"
    clock.seconds += MIN_INTERVAL_SECONDS
    found = observer.read()
    assert (found.num_done, found.num_read) == (40, 40)
    assert found.bytes_done == found.bytes_read == sum(r.size_bytes for r in reading.ledger.ranges)
    assert found == reading.collector.closed_totals


def test_each_range_is_read_once(job: JobFolder) -> None:
    store = WatchedStore()
    clock = ManualClock()
    begin(job, store).run()
    ledger = Ledger.load(store)
    observer = DoneRangesTotals(ledger, clock)
    found, gets = observer.read(), store.num_gets
    clock.seconds += MIN_INTERVAL_SECONDS
    assert observer.read() == found
    assert store.num_gets == gets


def test_a_slow_store_is_asked_less_often(job: JobFolder) -> None:
    store = WatchedStore()
    clock = ManualClock()
    reading = begin(job, store)
    observer = DoneRangesTotals(Ledger.load(store), clock)

    def take_long() -> None:
        clock.seconds += 2.0

    store.on_list = take_long
    observer.read()
    store.on_list = lambda: None
    reading.run()
    clock.seconds += 2.0 * MIN_COST_RATIO - 1.0
    assert observer.read().num_done == 0
    clock.seconds += 1.0
    assert observer.read().num_done == 40


def test_a_store_that_does_not_answer_changes_nothing(job: JobFolder) -> None:
    store = WatchedStore()
    clock = ManualClock()
    begin(job, store).run()
    observer = DoneRangesTotals(Ledger.load(store), clock)
    found = observer.read()
    store.is_failing = True
    clock.seconds += MIN_INTERVAL_SECONDS
    assert observer.read() == found
