"""``ledger/energy/WORKER.JOULES-GPU_SECONDS``: what each run has taken of its GPUs so far.

Each run of a worker has one name and one object, whose key says all; so one listing adds up the
whole job, over all workers, attempts and restarts, and no run ever changes another's. A run that is
killed has lost what it took since it last wrote. Objects of ended runs stay: they are the memory.
Nothing depends on them but what people are told.
"""

from __future__ import annotations

import contextlib

from pipemax_worker.contract.energy import EnergyTotals
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.errors import OutputError

ENERGY_PREFIX = "ledger/energy/"


class EnergyNote:
    """This run's object. Only its last writing counts."""

    def __init__(self, store: ObjectStore, worker: str) -> None:
        self._store = store
        self._worker = worker
        self._last_key: str | None = None

    def write(self, totals: EnergyTotals) -> None:
        """``totals`` since the run's start. A store that fails is told of by whoever writes
        records; here it costs a note."""
        name = f"{self._worker}.{round(totals.joules)}-{round(totals.gpu_seconds)}"
        key = f"{ENERGY_PREFIX}{name}"
        if key == self._last_key:
            return
        with contextlib.suppress(OutputError):
            self._store.put(key, b"{}\n")
            if self._last_key is not None:
                self._store.delete(self._last_key)
            self._last_key = key


def read_energy(store: ObjectStore, but_for: str = "") -> EnergyTotals:
    """Of all runs, those of the worker ``but_for`` left out. Raises OutputError.

    A run that is seen between two writings has two objects: the greater counts.
    """
    newest: dict[str, EnergyTotals] = {}
    for key in store.list(ENERGY_PREFIX):
        worker, _, said = key.removeprefix(ENERGY_PREFIX).rpartition(".")
        totals = _parse(said)
        if worker == but_for or totals is None:
            continue
        if worker not in newest or newest[worker].gpu_seconds < totals.gpu_seconds:
            newest[worker] = totals
    return sum(newest.values(), EnergyTotals())


def _parse(said: str) -> EnergyTotals | None:
    joules, _, gpu_seconds = said.partition("-")
    if not (joules.isdecimal() and gpu_seconds.isdecimal()):
        return None
    return EnergyTotals(float(joules), float(gpu_seconds))
