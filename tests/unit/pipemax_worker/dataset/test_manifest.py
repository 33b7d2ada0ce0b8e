"""The manifest of a location with retries, also written by somebody who is late."""

from __future__ import annotations

import pytest
from kit.store import MemoryStore
from pipemax_worker.dataset.chain import RangeSummary
from pipemax_worker.dataset.earlier_results import note_source
from pipemax_worker.dataset.fingerprint import build_fingerprint
from pipemax_worker.dataset.inputs import InputFile
from pipemax_worker.dataset.ledger import Ledger
from pipemax_worker.dataset.manifest import read_manifest, withdraw_manifest, write_manifest
from pipemax_worker.dataset.records import RecordCounts

FILES = (InputFile("a.jsonl", 20, "h"),)


def open_ledger(store: MemoryStore) -> Ledger:
    """Two ranges."""
    return Ledger.open_or_create(store, FILES, build_fingerprint(model=1), 10)


def finish(ledger: Ledger, failed: int) -> None:
    for index in (0, 1):
        codes = {"x": failed, "y": 1} if failed else {}
        counts = RecordCounts(5, failed + 1 if failed else 0)
        ledger.finish(RangeSummary(index, counts, (), codes, num_copied=2))


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    finish(open_ledger(store), failed=3)
    return store


def test_what_it_says(store: MemoryStore) -> None:
    note_source(store, "/first")
    manifest = write_manifest(store, open_ledger(store))
    assert manifest == read_manifest(store)
    assert manifest.failed_codes == {"x": 6, "y": 2}
    assert list(manifest.failed_codes) == ["x", "y"], "the worst first"
    assert (manifest.num_copied, manifest.resumed_from) == (4, ("/first",))
    assert manifest.num_retries == 0


def test_after_a_retry_it_is_another(store: MemoryStore) -> None:
    ledger = open_ledger(store)
    write_manifest(store, ledger)
    ledger.begin_retry()
    finish(ledger, failed=0)
    assert write_manifest(store, ledger).counts.failed == 0
    found = read_manifest(store)
    assert found is not None
    assert (found.num_retries, found.counts.failed) == (1, 0)


def test_who_is_late_does_not_leave_an_old_one(store: MemoryStore) -> None:
    """It was of the first pass, and is woken in the retry and after it."""
    late, ledger = open_ledger(store), open_ledger(store)
    ledger.begin_retry()
    withdraw_manifest(store)
    write_manifest(store, late)
    assert read_manifest(store) is None
    finish(ledger, failed=0)
    write_manifest(store, ledger)
    write_manifest(store, late)
    found = read_manifest(store)
    assert found is not None
    assert (found.num_retries, found.counts.failed) == (1, 0)


class SlowStore(MemoryStore):
    """``before_put`` is called before a manifest is put: what others do meanwhile."""

    def put(self, key: str, data: bytes) -> None:
        if key == "manifest.json" and self.before_put is not None:
            call, self.before_put = self.before_put, None
            call()
        super().put(key, data)

    before_put = None


@pytest.mark.parametrize("is_retry_over", [False, True])
def test_who_is_frozen_before_the_put_puts_it_right(is_retry_over: bool) -> None:
    store = SlowStore()
    finish(open_ledger(store), failed=3)

    def retry() -> None:
        ledger = open_ledger(store)
        ledger.begin_retry()
        withdraw_manifest(store)
        if is_retry_over:
            finish(ledger, failed=0)
            write_manifest(store, ledger)

    late = open_ledger(store)
    store.before_put = retry
    write_manifest(store, late)
    found = read_manifest(store)
    assert (found.num_retries if found else None) == (1 if is_retry_over else None)


def test_a_manifest_of_another_version_is_written_anew(store: MemoryStore) -> None:
    store.put("manifest.json", b'{"version": 1}')
    assert read_manifest(store) is None
    write_manifest(store, open_ledger(store))
    assert read_manifest(store) is not None
