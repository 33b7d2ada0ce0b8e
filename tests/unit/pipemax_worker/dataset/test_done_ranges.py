"""Which ranges are done, pass by pass; workers of any pass agree, and old ones change nothing."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from kit.store import MemoryStore
from pipemax_worker.dataset.chain import RangeSummary
from pipemax_worker.dataset.done_ranges import DoneRanges, read_newest_retry
from pipemax_worker.dataset.records import RecordCounts

NUM_RANGES = 4


def summary(index: int, failed: int = 0, completed: int = 5) -> RangeSummary:
    return RangeSummary(index, RecordCounts(completed, failed), ())


def finish(done: DoneRanges, indices: Collection[int], failed: int = 0, completed: int = 5) -> None:
    for index in indices:
        done.finish(summary(index, failed, completed))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def open_done(store: MemoryStore) -> DoneRanges:
    return DoneRanges(store, NUM_RANGES)


def test_the_first_pass(store: MemoryStore) -> None:
    done = open_done(store)
    finish(done, (2, 0))
    assert done.indices() == {0, 2}
    assert not done.is_finished
    assert (done.pass_number, done.retry) == (0, None)
    finish(done, (1, 3))
    assert done.is_finished
    assert [one.range_index for one in done.summaries()] == [0, 1, 2, 3]
    assert store.exists("ledger/done/00000003.json")


def test_nothing_to_retry(store: MemoryStore) -> None:
    done = open_done(store)
    finish(done, range(NUM_RANGES))
    assert not done.begin_retry()
    assert read_newest_retry(store) is None


def test_a_retry_goes_over_what_failed(store: MemoryStore) -> None:
    done = open_done(store)
    finish(done, (0, 2))
    finish(done, (1, 3), failed=2)
    assert done.begin_retry()
    assert done.retry is not None
    assert (done.pass_number, done.retry.ranges) == (1, (1, 3))
    assert done.indices() == {0, 2}
    finish(done, (3,), failed=1, completed=6)
    assert done.indices() == {0, 2, 3}
    assert [(one.range_index, one.counts.failed) for one in done.summaries()] == [
        (0, 0),
        (2, 0),
        (3, 1),
    ]
    finish(done, (1,))
    assert done.is_finished
    assert open_done(store).is_finished


def test_an_unfinished_job_is_retried_as_a_whole(store: MemoryStore) -> None:
    done = open_done(store)
    finish(done, (0,))
    finish(done, (1,), failed=1)
    done.begin_retry()
    assert done.retry is not None
    assert done.retry.ranges == (1, 2, 3)
    assert done.indices() == {0}


def test_workers_that_begin_together_are_in_one_retry(store: MemoryStore) -> None:
    first, second = open_done(store), open_done(store)
    finish(first, range(NUM_RANGES), failed=1)
    first.begin_retry()
    second.begin_retry()
    assert first.retry == second.retry
    third = open_done(store)
    third.begin_retry()
    assert third.retry == first.retry, "it is under way: who comes later joins"


def test_the_next_retry_begins_when_the_last_one_has_ended(store: MemoryStore) -> None:
    done = open_done(store)
    finish(done, range(NUM_RANGES), failed=1)
    for number in range(1, 12):
        done.begin_retry()
        assert done.pass_number == number
        finish(done, (0,), failed=1)
        finish(done, (1, 2, 3), failed=int(number < 3))
    assert done.retry is not None
    assert done.retry.ranges == (0,)
    assert open_done(store).pass_number == 11
    assert [one.counts.failed for one in open_done(store).summaries()] == [1, 0, 0, 0]


def test_a_retry_that_was_given_up_is_not_joined(store: MemoryStore) -> None:
    done = open_done(store)
    finish(done, range(NUM_RANGES), failed=1)
    done.begin_retry()
    finish(done, (2,))
    done.give_up_retry()
    again = open_done(store)
    assert again.pass_number == 1, "a plain run goes on with it"
    again.begin_retry()
    assert again.retry is not None
    assert (again.pass_number, again.retry.ranges) == (2, (0, 1, 3))


def test_the_first_pass_cannot_be_given_up(store: MemoryStore) -> None:
    open_done(store).give_up_retry()
    assert store.objects == {}


def test_a_worker_of_an_older_pass_comes_to_its_end(store: MemoryStore) -> None:
    old = open_done(store)
    finish(old, (0, 1))
    new = open_done(store)
    new.begin_retry()
    finish(new, (2, 3))
    assert old.is_finished
    finish(old, (2,), failed=4)  # it is late, and believes so
    assert [one.counts.failed for one in new.summaries()] == [0, 0, 0, 0]


def test_who_finishes_first_is_believed(store: MemoryStore) -> None:
    done = open_done(store)
    finish(done, range(NUM_RANGES), failed=1)
    done.begin_retry()
    finish(done, (0,), completed=6)
    finish(done, (0,), completed=7)
    assert next(iter(done.summaries())).counts.completed == 6


@pytest.mark.parametrize("digits", ["00000", "00001", "00002", "0000000", "000010"])
def test_a_block_of_many(store: MemoryStore, digits: str) -> None:
    """In a retry, where most are done because they are not in it."""
    done = DoneRanges(store, 1050)
    finish(done, range(1050), failed=0)
    finish(done, ())
    store.objects.pop("ledger/done/00000007.json")
    store.objects.pop("ledger/done/00001049.json")
    done.begin_retry()
    finish(done, (1049,))
    expected = {index for index in range(1050) if f"{index:08d}".startswith(digits)} - {7}
    assert done.indices(digits) == expected


def test_other_objects_are_passed_over(store: MemoryStore) -> None:
    store.put("ledger/retries/notes.json", b"")
    store.put("ledger/done/.keep", b"")
    done = open_done(store)
    assert (done.pass_number, done.indices()) == (0, set())
