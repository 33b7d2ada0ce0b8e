"""Between device memory and pinned host memory."""

from __future__ import annotations

import numpy as np
import torch

from pipemax_worker.contract.transfers import CopyJob
from pipemax_worker.stage.kv.copiers import CopyOutcome, IssuedCopy, max_run_slots
from pipemax_worker.stage.kv.copy_batch import BatchedCopies, CopyBatch, load_batched_copies
from pipemax_worker.stage.kv.runs import find_runs, split_into_runs

NUM_STREAMS = 2
"""The GPU prepares a copy of one while it carries out one of the other."""


class CudaCopier:
    """Between device memory and pinned host memory, on streams of its own.

    The first stream waits for the mark's event, so a load starts after the forward that used its
    target, and a store after the forward that fills its source. A job is one call a stream where
    CUDA has it, else a copy of PyTorch's for each run.
    """

    def __init__(
        self,
        source: torch.Tensor,
        target: torch.Tensor,
        host_chunk_slots: int,
        num_streams: int = NUM_STREAMS,
    ) -> None:
        self._source, self._target = source, target
        self._host_chunk_slots = host_chunk_slots
        self._device = source.device if source.is_cuda else target.device
        self._stream, *self._more_streams = (
            torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            for _ in range(num_streams)
        )
        self._batched: BatchedCopies | None = load_batched_copies()

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def copy(self, job: CopyJob, mark: torch.cuda.Event | None) -> CopyOutcome:
        return self.finish(self.issue(job, mark))

    def issue(self, job: CopyJob, mark: torch.cuda.Event | None) -> IssuedCopy:
        # This may be a thread of its own, whose GPU is number 0 at first: leaving the block below
        # would go back there, and make a context of half a GiB on it for every stage.
        torch.cuda.set_device(self._device)
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            if mark is not None:
                self._stream.wait_event(mark)
            start.record(self._stream)
            self._issue(job)
            end.record(self._stream)
        return IssuedCopy(start, end)

    def finish(self, issued: IssuedCopy) -> CopyOutcome:
        issued.end.synchronize()
        return CopyOutcome(issued.start.elapsed_time(issued.end) / 1e3)

    def _issue(self, job: CopyJob) -> None:
        if self._batched is not None:
            batch = batch_of(job, self._source, self._target, self._host_chunk_slots)
            if self._issue_batch(self._batched, batch):
                return
            self._batched = None
        self._issue_one_by_one(job)

    def _issue_batch(self, batched: BatchedCopies, batch: CopyBatch) -> bool:
        first, *others = batch.split(1 + len(self._more_streams))
        for stream, part in zip(self._more_streams, others, strict=False):
            stream.wait_stream(self._stream)
            if not batched.issue(part, stream.cuda_stream):
                return False
        is_issued = batched.issue(first, self._stream.cuda_stream)
        for stream in self._more_streams[: len(others)]:
            self._stream.wait_stream(stream)
        return is_issued

    def _issue_one_by_one(self, job: CopyJob) -> None:
        longest = max_run_slots(self._source.shape[1])
        for run in split_into_runs(job, longest, boundary=self._host_chunk_slots):
            source = self._source[run.source : run.source + run.length]
            target = self._target[run.target : run.target + run.length]
            target.copy_(source, non_blocking=True)


def batch_of(
    job: CopyJob, source: torch.Tensor, target: torch.Tensor, host_chunk_slots: int
) -> CopyBatch:
    """The addresses of ``job``'s runs; both tensors are ``[num_slots, slot_bytes]``."""
    source_slots, target_slots, lengths = find_runs(job, host_chunk_slots)
    slot_bytes = source.shape[1]

    def addresses(rows: torch.Tensor, slots: np.ndarray) -> np.ndarray:
        return (rows.data_ptr() + slots * slot_bytes).astype(np.uint64)

    return CopyBatch(
        addresses(source, source_slots),
        addresses(target, target_slots),
        (lengths * slot_bytes).astype(np.uint64),
    )
