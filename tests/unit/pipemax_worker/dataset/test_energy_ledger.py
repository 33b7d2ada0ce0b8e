"""What runs took of GPUs, added up over workers and attempts by one listing."""

from __future__ import annotations

from kit.store import FailingStore, MemoryStore
from pipemax_worker.contract.energy import EnergyTotals
from pipemax_worker.dataset.energy_ledger import ENERGY_PREFIX, EnergyNote, read_energy


def test_runs_add_up_and_each_counts_once() -> None:
    store = MemoryStore()
    first, second = EnergyNote(store, "node-a.example-1-2"), EnergyNote(store, "node-b-1-2")
    for joules in (10.0, 20.0, 30.4):
        first.write(EnergyTotals(joules, joules / 10))
    second.write(EnergyTotals(5.0, 60.0))
    assert read_energy(store) == EnergyTotals(35.0, 63.0)
    assert read_energy(store, but_for="node-b-1-2") == EnergyTotals(30.0, 3.0)
    assert len(store.objects) == 2, "a run has one object"


def test_a_run_seen_between_two_writings_counts_once() -> None:
    store = MemoryStore()
    EnergyNote(store, "w").write(EnergyTotals(9.0, 100.0))
    EnergyNote(store, "w").write(EnergyTotals(10.0, 101.0))
    assert len(store.objects) == 2
    assert read_energy(store) == EnergyTotals(10.0, 101.0)


def test_what_has_not_changed_is_not_written() -> None:
    store = MemoryStore()
    note = EnergyNote(store, "w")
    note.write(EnergyTotals(9.1, 1.0))
    note.write(EnergyTotals(9.2, 1.1))
    assert len(store.writes) == 1


def test_a_store_that_fails_costs_a_note_and_no_more() -> None:
    store = FailingStore()
    note = EnergyNote(store, "w")
    note.write(EnergyTotals(1.0, 1.0))
    store.is_failing = True
    note.write(EnergyTotals(2.0, 2.0))
    store.is_failing = False
    assert read_energy(store) == EnergyTotals(1.0, 1.0)
    note.write(EnergyTotals(3.0, 3.0))
    assert store.list(ENERGY_PREFIX) == [f"{ENERGY_PREFIX}w.3-3"]


def test_what_is_no_note_counts_for_nothing() -> None:
    store = MemoryStore()
    for name in ("w", "w.", "w.1", "w.a-b", "w.-1-2", ".tmp"):
        store.put(f"{ENERGY_PREFIX}{name}", b"{}")
    assert read_energy(store) == EnergyTotals()
