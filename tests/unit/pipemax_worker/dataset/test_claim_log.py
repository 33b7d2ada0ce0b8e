"""Attempts have numbers of their own, which only grow, whoever asks for them at the same time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from kit.store import MemoryStore
from pipemax_worker.dataset.claim_log import ClaimLog
from pipemax_worker.dataset.local_store import LocalStore
from pipemax_worker.dataset.records import Attempt


def test_each_claim_is_newer_than_the_last() -> None:
    log = ClaimLog(MemoryStore())
    assert log.newest_number(2) == 0
    assert log.claim(2, "worker-z") == Attempt(1, "worker-z")
    assert log.claim(2, "worker-a") == Attempt(2, "worker-a")
    assert log.claim(3, "worker-a") == Attempt(1, "worker-a")
    assert log.newest_number(2) == 2
    claim = log.read(2, 1)
    assert claim is not None
    assert claim.attempt == Attempt(1, "worker-z"), "no claim is ever overwritten"


def test_a_number_goes_to_one_worker() -> None:
    log = ClaimLog(MemoryStore())
    assert log.try_claim(0, 1, "a") == Attempt(1, "a")
    assert log.try_claim(0, 1, "b") is None
    assert log.try_claim(0, 1, "a") is None, "not even twice to the same"
    assert log.try_claim(0, 2, "b") == Attempt(2, "b")


def test_workers_that_ask_together_get_numbers_of_their_own(tmp_path: Path) -> None:
    attempts: list[Attempt] = []
    barrier = threading.Barrier(6)

    def claim(worker: str) -> None:
        log = ClaimLog(LocalStore(tmp_path))
        barrier.wait()
        attempts.extend(log.claim(7, worker) for _ in range(3))

    threads = [threading.Thread(target=claim, args=(f"w{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(attempt.number for attempt in attempts) == list(range(1, 19))


def test_a_block_is_listed_by_itself() -> None:
    log = ClaimLog(MemoryStore())
    for range_index in (0, 12, 12, 999, 1000, 1999, 2000):
        log.claim(range_index, "a")
    assert log.newest_numbers(0) == {0: 1, 12: 2, 999: 1}
    assert log.newest_numbers(1) == {1000: 1, 1999: 1}
    assert log.newest_numbers(2) == {2000: 1}
    assert log.newest_numbers(3) == {}


@pytest.mark.parametrize("damage", [b"", b"garbage", b"{}"])
def test_a_claim_that_cannot_be_read_keeps_its_number(damage: bytes) -> None:
    store = MemoryStore()
    log = ClaimLog(store)
    log.claim(0, "a")
    store.put("ledger/claims/00000000-000001", damage)
    assert log.read(0, 1) is None
    assert log.read(0, 9) is None
    assert log.claim(0, "b") == Attempt(2, "b")


def test_other_files_in_the_folder_are_no_claims() -> None:
    store = MemoryStore()
    for name in ("00000000", "00000000-1", "notes.txt", "00000000-000001.bak"):
        store.put(f"ledger/claims/{name}", b"x")
    assert ClaimLog(store).newest_numbers(0) == {}
