"""Carries out copy jobs beside the forward, and says when they have landed.

Each direction between two neighbouring tiers is a link with a thread of its own; a link works in
the order of submission. Three orderings hold whatever the driver sends:

- a copy starts after the computation submitted before it (on CUDA by an event, on the CPU because
  a forward has ended when ``submit`` is called);
- copies of different links that touch the same slot run in the order of submission;
- :meth:`wait_for_readers` holds a forward back until no store reads a slot that it appends to.

All methods are called by the one thread that computes.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable

import torch

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.transfers import CopyJob, CopyResult
from pipemax_worker.errors import InvariantError
from pipemax_worker.stage.kv.copiers import (
    Copier,
    CopyOutcome,
    DemoteCopier,
    MemoryCopier,
    PromoteCopier,
)
from pipemax_worker.stage.kv.cuda_copier import CudaCopier
from pipemax_worker.stage.kv.device import DeviceKVCache
from pipemax_worker.stage.kv.host import HostKVCache
from pipemax_worker.stage.kv.link import CopyLink, OrderedCopy
from pipemax_worker.stage.kv.nvme import NVMeKVFile


class KVMover:
    """Moves slots between ``device``, ``host`` and ``nvme`` (None: no such tier).

    Errors of a link other than a bad NVMe slot are raised by the next call of any method.
    """

    def __init__(self, device: DeviceKVCache, host: HostKVCache, nvme: NVMeKVFile | None) -> None:
        self._slot_bytes = device.rows.shape[1]
        self._lock = threading.Lock()
        self._unfinished: dict[int, OrderedCopy] = {}
        self._finished: list[CopyResult] = []
        self._failure: BaseException | None = None
        self._wakeup_read, self._wakeup_write = os.pipe()
        os.set_blocking(self._wakeup_read, False)
        os.set_blocking(self._wakeup_write, False)
        self._links = {
            (source, target): CopyLink(f"{source.name}-{target.name}", copier, self._on_landed)
            for (source, target), copier in _build_copiers(device, host, nvme).items()
        }

    @property
    def wakeup_fd(self) -> int:
        """Readable when copies have landed since the last :meth:`get_finished`."""
        return self._wakeup_read

    def submit(self, jobs: Iterable[CopyJob]) -> None:
        """Start ``jobs``. Raises InvariantError for tiers that are no neighbours or not there."""
        for job in jobs:
            link = self._links.get((job.source, job.target))
            if link is None:
                raise InvariantError(
                    f"copy job {job.job_id}: there is no link from {job.source.name} to "
                    f"{job.target.name} on this stage"
                )
            copy = OrderedCopy(job, link.mark())
            with self._lock:
                copy.after = tuple(
                    earlier
                    for earlier in self._unfinished.values()
                    if _is_other_link(earlier, copy) and copy.must_follow(earlier)
                )
                self._unfinished[job.job_id] = copy
            link.submit(copy)
        self._raise_failure()

    def wait(self, job_ids: Iterable[int]) -> None:
        """Return when these jobs have landed. Unknown ids have landed before."""
        for job_id in job_ids:
            copy = self._unfinished.get(job_id)
            if copy is not None:
                copy.landed.wait()
        self._raise_failure()

    def wait_before_launch(self, job_ids: Iterable[int]) -> None:
        """Return when whatever is launched on the current stream from now on comes after these
        jobs: on a GPU that is before they have landed, so that the host can go on."""
        for job_id in job_ids:
            copy = self._unfinished.get(job_id)
            if copy is None:
                continue
            copy.issued.wait()
            if copy.end is None:
                copy.landed.wait()
            else:
                torch.cuda.current_stream().wait_event(copy.end)
        self._raise_failure()

    def wait_for_readers(self, device_slots: Iterable[int]) -> None:
        """Return when no unfinished store reads any of ``device_slots``.

        A tail block is stored for preemption or parking and may be appended to by a later message;
        a full block is never written again. So this seldom waits.
        """
        with self._lock:
            stores = [c for c in self._unfinished.values() if c.job.source == Tier.DEVICE]
        if stores:
            slots = frozenset(device_slots)
            self.wait(c.job.job_id for c in stores if c.reads_any(Tier.DEVICE, slots))

    def get_finished(self) -> list[CopyResult]:
        """What has landed since the last call."""
        with contextlib.suppress(OSError):  # nothing to read, or closed
            os.read(self._wakeup_read, 65536)
        self._raise_failure()
        with self._lock:
            finished, self._finished = self._finished, []
        return finished

    def close(self) -> None:
        """Finish all copies and stop the threads. Results stay to be collected. Idempotent."""
        while self._links:
            self._links.popitem()[1].close()
        if self._wakeup_read >= 0:
            os.close(self._wakeup_read)
            os.close(self._wakeup_write)
            self._wakeup_read = -1

    def _on_landed(self, copy: OrderedCopy, outcome: CopyOutcome | BaseException) -> None:
        with self._lock:
            if isinstance(outcome, BaseException):
                self._failure = outcome
            else:
                self._finished.append(self._result(copy.job, outcome))
            del self._unfinished[copy.job.job_id]
        copy.landed.set()
        with contextlib.suppress(BlockingIOError):  # a full pipe is readable already
            os.write(self._wakeup_write, b"\0")

    def _result(self, job: CopyJob, outcome: CopyOutcome) -> CopyResult:
        num_bytes = job.num_slots * self._slot_bytes
        return CopyResult(job.job_id, num_bytes, outcome.seconds, outcome.failed)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


def _is_other_link(one: OrderedCopy, other: OrderedCopy) -> bool:
    return (one.job.source, one.job.target) != (other.job.source, other.job.target)


def _build_copiers(
    device: DeviceKVCache, host: HostKVCache, nvme: NVMeKVFile | None
) -> dict[tuple[Tier, Tier], Copier]:
    copiers: dict[tuple[Tier, Tier], Copier] = {}
    if device.rows.is_cuda:
        chunk = host.chunk_slots
        copiers[Tier.HOST, Tier.DEVICE] = CudaCopier(host.rows, device.rows, chunk)
        copiers[Tier.DEVICE, Tier.HOST] = CudaCopier(device.rows, host.rows, chunk)
    else:
        copiers[Tier.HOST, Tier.DEVICE] = MemoryCopier(host.rows, device.rows)
        copiers[Tier.DEVICE, Tier.HOST] = MemoryCopier(device.rows, host.rows)
    if nvme is not None:
        copiers[Tier.HOST, Tier.NVME] = DemoteCopier(host.rows, nvme)
        copiers[Tier.NVME, Tier.HOST] = PromoteCopier(host.rows, nvme)
    return copiers
