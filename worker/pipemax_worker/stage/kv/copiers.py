"""How the bytes of one copy job get from one tier to the next: one class for each kind of link.

A copier is used by one thread, its link's. ``mark`` alone is called by the thread that computes: it
captures what the copy must come after.
"""

from __future__ import annotations

import ctypes
import time
from typing import NamedTuple, Protocol, runtime_checkable

import torch

from pipemax_worker.contract.transfers import CopyJob
from pipemax_worker.stage.kv.memory import row_buffers
from pipemax_worker.stage.kv.nvme import NVMeKVFile
from pipemax_worker.stage.kv.runs import split_into_runs
from pipemax_worker.stage.model.native.library import load_library

MAX_RUN_BYTES = 16 << 20
"""Enough for a link's full speed; small enough that activations need not wait long behind it."""


class CopyOutcome(NamedTuple):
    """``seconds`` on the link itself; ``failed`` holds positions of the job."""

    seconds: float
    failed: tuple[int, ...] = ()


class Copier(Protocol):
    def mark(self) -> torch.cuda.Event | None:
        """What has been computed up to now, for :meth:`copy` to come after."""
        ...

    def copy(self, job: CopyJob, mark: torch.cuda.Event | None) -> CopyOutcome:
        """Carry out ``job`` and return when its bytes have landed."""
        ...


class IssuedCopy(NamedTuple):
    """On its way; ``end`` is recorded behind it on the device."""

    start: torch.cuda.Event
    end: torch.cuda.Event


@runtime_checkable
class IssuingCopier(Copier, Protocol):
    """One whose copies the device carries out by itself once they are issued."""

    def issue(self, job: CopyJob, mark: torch.cuda.Event | None) -> IssuedCopy: ...

    def finish(self, issued: IssuedCopy) -> CopyOutcome:
        """Return when its bytes have landed."""
        ...


def max_run_slots(slot_bytes: int) -> int:
    """How many slots one run may hold; preadv takes at most 1,024 buffers."""
    return min(1024, max(1, MAX_RUN_BYTES // slot_bytes))


class MemoryCopier:
    """Between tiers in plain memory, without the GIL: the whole job in one call of the compiled
    kernel, or one ``memmove`` a run where there is no compiler. (After each run Python would have
    to get its lock back from the thread that computes: that took longer than the copies.)

    On the CPU a forward has ended when ``submit`` is called, so there is nothing to mark.
    """

    def __init__(self, source: torch.Tensor, target: torch.Tensor) -> None:
        self._source, self._target = source, target
        self._library = load_library()

    def mark(self) -> None:
        return None

    def copy(self, job: CopyJob, mark: torch.cuda.Event | None) -> CopyOutcome:
        start = time.perf_counter()
        if self._library is not None:
            self._copy_compiled(self._library, job)
        else:
            self._copy_runs(job)
        return CopyOutcome(time.perf_counter() - start)

    def _copy_compiled(self, library: ctypes.CDLL, job: CopyJob) -> None:
        library.pipemax_copy_rows(
            ctypes.c_void_p(self._target.data_ptr()),
            ctypes.c_void_p(self._source.data_ptr()),
            job.target_slots,
            job.source_slots,
            ctypes.c_int64(job.num_slots),
            ctypes.c_int64(self._source.shape[1]),
        )

    def _copy_runs(self, job: CopyJob) -> None:
        row_bytes = self._source.shape[1]
        source, target = self._source.data_ptr(), self._target.data_ptr()
        for run in split_into_runs(job, max_run_slots(row_bytes)):
            ctypes.memmove(
                target + run.target * row_bytes,
                source + run.source * row_bytes,
                run.length * row_bytes,
            )


class DemoteCopier:
    """Host rows to the NVMe file."""

    def __init__(self, host_rows: torch.Tensor, file: NVMeKVFile) -> None:
        self._host_rows, self._file = host_rows, file

    def mark(self) -> None:
        return None

    def copy(self, job: CopyJob, mark: torch.cuda.Event | None) -> CopyOutcome:
        start = time.perf_counter()
        failed: list[int] = []
        for run in split_into_runs(job, max_run_slots(self._file.slot_bytes)):
            buffers = row_buffers(self._host_rows, run.source, run.length)
            failed += (run.position + index for index in self._file.write(run.target, buffers))
        return CopyOutcome(time.perf_counter() - start, tuple(failed))


class PromoteCopier:
    """The NVMe file to host rows, with checksums verified."""

    def __init__(self, host_rows: torch.Tensor, file: NVMeKVFile) -> None:
        self._host_rows, self._file = host_rows, file

    def mark(self) -> None:
        return None

    def copy(self, job: CopyJob, mark: torch.cuda.Event | None) -> CopyOutcome:
        start = time.perf_counter()
        failed: list[int] = []
        for run in split_into_runs(job, max_run_slots(self._file.slot_bytes)):
            buffers = row_buffers(self._host_rows, run.target, run.length)
            failed += (run.position + index for index in self._file.read(run.source, buffers))
        return CopyOutcome(time.perf_counter() - start, tuple(failed))
