"""Workers show that they work; readers find the silent by their own clock."""

from __future__ import annotations

import pytest
from kit.store import FailingStore, ManualClock, MemoryStore
from pipemax_worker.dataset.heartbeats import (
    ENDED,
    WORKERS_PREFIX,
    Heartbeat,
    HeartbeatLimits,
    SilenceWatch,
    mark_ended,
    read_beats,
    read_held,
)

LIMITS = HeartbeatLimits(interval_seconds=10.0, silent_seconds=60.0)


def _heartbeat(
    store: MemoryStore, worker: str = "a", clock: ManualClock | None = None
) -> tuple[Heartbeat, ManualClock]:
    clock = clock or ManualClock()
    return Heartbeat(store, worker, clock, LIMITS), clock


def test_it_beats_at_its_interval_however_often_the_loop_turns() -> None:
    store = MemoryStore()
    heartbeat, clock = _heartbeat(store)
    for tenth in range(301):
        clock.seconds = tenth / 10
        heartbeat.beat_if_due()
    assert len(store.writes) == 4
    assert read_beats(store) == {"a": "00000004"}
    assert len(store.list(WORKERS_PREFIX)) == 1, "one small object a worker"


def test_who_ends_says_so() -> None:
    store = MemoryStore()
    heartbeat, _ = _heartbeat(store)
    heartbeat.beat_if_due()
    heartbeat.end()
    assert read_beats(store) == {"a": ENDED}
    assert store.list(WORKERS_PREFIX) == ["ledger/workers/a.ended"]


def test_a_store_that_fails_does_not_end_the_run() -> None:
    store = FailingStore()
    heartbeat, clock = _heartbeat(store)
    store.is_failing = True
    heartbeat.beat_if_due()
    assert read_beats(store) == {}
    store.is_failing = False
    heartbeat.beat_if_due()
    assert read_beats(store) == {}, "not before it is due again"
    clock.seconds = 10.0
    heartbeat.beat_if_due()
    assert read_beats(store) == {"a": "00000002"}


def test_between_two_objects_of_one_worker_the_newer_counts() -> None:
    store = MemoryStore()
    for suffix in ("00000009", "00000010"):
        store.put(f"{WORKERS_PREFIX}node.example-1-2-3.{suffix}", b"")
    assert read_beats(store) == {"node.example-1-2-3": "00000010"}
    store.put(f"{WORKERS_PREFIX}node.example-1-2-3.{ENDED}", b"")
    assert read_beats(store) == {"node.example-1-2-3": ENDED}


def test_the_dead_are_marked_by_those_who_know() -> None:
    store = MemoryStore()
    heartbeat, _ = _heartbeat(store)
    heartbeat.beat_if_due()
    mark_ended(store, "a", "00000001")
    assert store.list(WORKERS_PREFIX) == ["ledger/workers/a.ended"]


def test_silence_is_what_has_not_changed_since_this_reader_saw_it() -> None:
    watch = SilenceWatch(silent_seconds=60.0)
    watch.update({"a": "00000500", "b": "00000001"}, 1000.0)
    assert not watch.is_silent("a"), "however old it is, this reader has just seen it"
    assert watch.num_alive == 2
    watch.update({"a": "00000500", "b": "00000002"}, 1059.0)
    assert not watch.is_silent("a")
    watch.update({"a": "00000500", "b": "00000002"}, 1060.0)
    assert watch.is_silent("a")
    assert not watch.is_silent("b")
    assert watch.num_alive == 1


def test_who_wakes_up_is_not_silent_any_more() -> None:
    watch = SilenceWatch(60.0)
    watch.update({"a": "00000001"}, 0.0)
    watch.update({"a": "00000001"}, 100.0)
    assert watch.is_silent("a")
    watch.update({"a": "00000002"}, 130.0)
    assert not watch.is_silent("a")


def test_a_reader_that_was_frozen_itself_takes_nobody_for_silent() -> None:
    watch = SilenceWatch(60.0)
    watch.update({"a": "00000001"}, 0.0)
    watch.update({"a": "00000400"}, 4000.0)
    assert not watch.is_silent("a")


def test_who_ended_or_vanished_is_silent_at_once() -> None:
    watch = SilenceWatch(60.0)
    watch.update({"a": "00000001", "b": "00000001"}, 0.0)
    watch.update({"a": ENDED}, 1.0)
    assert watch.is_silent("a")
    assert watch.is_silent("b")
    assert watch.num_alive == 0


def test_who_never_showed_himself_is_gone() -> None:
    assert SilenceWatch(60.0).is_silent("a")


def test_who_fell_silent_since_the_last_look_is_told_once() -> None:
    watch = SilenceWatch(60.0)
    assert watch.update({"a": "00000001", "b": "00000001"}, 0.0) == {}
    assert watch.update({"a": "00000001", "b": "00000002"}, 70.0) == {"a": "00000001"}
    assert watch.update({"a": "00000001", "b": "00000003"}, 100.0) == {}
    assert watch.update({"a": "00000001", "b": ENDED}, 110.0) == {"b": ENDED}
    assert watch.updated_seconds == 110.0


def test_a_sign_of_life_names_what_is_in_hand_and_comes_at_once_with_a_new_range() -> None:
    store = MemoryStore()
    heartbeat, clock = _heartbeat(store)
    heartbeat.beat_if_due()
    heartbeat.show({3: 1, 17: 2})
    assert read_beats(store) == {"a": "00000002"}
    assert read_held(store, "a", "00000002") == {3: 1, 17: 2}
    clock.seconds = 9.0
    heartbeat.beat_if_due()
    assert read_beats(store) == {"a": "00000002"}, "the next one is due 10 s after it"
    heartbeat.end()
    assert read_held(store, "a", ENDED) == {3: 1, 17: 2}


def test_what_cannot_be_read_names_nothing() -> None:
    store = MemoryStore()
    store.put(f"{WORKERS_PREFIX}a.00000001", b"{}")
    store.put(f"{WORKERS_PREFIX}b.00000001", b"garbage")
    assert read_held(store, "a", "00000001") == {}
    assert read_held(store, "b", "00000001") == {}
    assert read_held(store, "c", "00000001") == {}


@pytest.mark.parametrize(
    ("seconds", "expected"), [(60, (15, 60)), (600, (15, 600)), (20, (5, 20)), (1, (2.5, 10))]
)
def test_several_beats_fit_into_a_silence(seconds: float, expected: tuple[float, float]) -> None:
    limits = HeartbeatLimits.for_silence(seconds)
    assert (limits.interval_seconds, limits.silent_seconds) == expected
    assert HeartbeatLimits.for_silence(60) == HeartbeatLimits()
