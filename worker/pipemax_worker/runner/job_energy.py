"""What the whole job has taken of GPUs: this run's meter, and the ledger's word on all others."""

from __future__ import annotations

import contextlib
import threading

import msgspec

from pipemax_worker.contract.energy import EnergyTotals
from pipemax_worker.dataset.energy_ledger import EnergyNote, read_energy
from pipemax_worker.dataset.object_store import ObjectStore
from pipemax_worker.errors import PipemaxError
from pipemax_worker.pipeline.gpus import gpu_uuids
from pipemax_worker.pipeline.settings import PipelineSettings
from pipemax_worker.telemetry.energy_meter import EnergyMeter
from pipemax_worker.telemetry.progress import ProgressSnapshot

KEEP_SECONDS = 15.0
"""What a run that is killed loses at most."""
MAX_END_SECONDS = 10.0


def find_stage_gpus(settings: PipelineSettings) -> tuple[str, ...]:
    """The UUID of each stage's GPU; none on a CPU."""
    return gpu_uuids()[: settings.num_stages] if settings.device == "cuda" else ()


class JobEnergy:
    """Keeps this run's energy in ``store`` and knows that of the others, by a thread of its own.

    Use as a context manager, inside the meter's: the end is written at its exit. A run without GPUs
    neither writes nor reads.
    """

    def __init__(self, meter: EnergyMeter, store: ObjectStore, worker: str) -> None:
        self._meter = meter
        self._store = store
        self._worker = worker
        self._note = EnergyNote(store, worker)
        self._others = EnergyTotals()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_on, name="job-energy", daemon=True)

    def __enter__(self) -> JobEnergy:
        if self._meter.has_gpus:
            self._keep()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._meter.has_gpus:
            return
        self._ended.set()
        self._thread.join(MAX_END_SECONDS)
        if not self._thread.is_alive():  # else the store hangs, and a last note is not worth it
            self._keep()

    def totals(self) -> EnergyTotals:
        """Of all runs of the job, as far as they are known here: this one's to the moment, the
        others' as they last wrote."""
        return self._others + self._meter.totals()

    def add_to(self, snapshot: ProgressSnapshot) -> ProgressSnapshot:
        """The picture with what the meter says now."""
        if not self._meter.has_gpus:
            return snapshot
        watts = [one.watts for one in self._meter.readings() if one.watts is not None]
        return msgspec.structs.replace(
            snapshot,
            energy=self._meter.totals(),
            job_energy=self.totals(),
            power_watts=sum(watts) if watts else None,
        )

    def _keep_on(self) -> None:
        while not self._ended.wait(KEEP_SECONDS):
            self._keep()

    def _keep(self) -> None:
        self._note.write(self._meter.totals())
        with contextlib.suppress(PipemaxError):  # told by whoever writes records
            self._others = read_energy(self._store, but_for=self._worker)
