"""Runs of slots: what a copy job becomes before it reaches a link. Pure."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipemax_worker.contract.transfers import CopyJob

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


class SlotRun(NamedTuple):
    """``length`` consecutive slots from ``source`` to as many from ``target``. ``position`` is the
    first one's place in its job."""

    position: int
    source: int
    target: int
    length: int


def split_into_runs(job: CopyJob, max_length: int, boundary: int | None = None) -> list[SlotRun]:
    """Cut ``job`` where source or target slots stop being consecutive, and after ``max_length``.

    No run crosses a multiple of ``boundary`` on either side (pinned memory ends there).
    """
    source, target, starts = _find_starts(job, boundary)
    edges = [*starts.tolist(), len(source)]
    sources, targets = source.tolist(), target.tolist()
    runs = []
    for start, end in itertools.pairwise(edges):
        for position in range(start, end, max_length):
            length = min(max_length, end - position)
            runs.append(SlotRun(position, sources[position], targets[position], length))
    return runs


def find_runs(job: CopyJob, boundary: int | None = None) -> tuple[Int64s, Int64s, Int64s]:
    """(source, target, length) of the same runs as arrays, of any length."""
    source, target, starts = _find_starts(job, boundary)
    lengths = np.diff(starts, append=len(source))
    return source[starts].astype(np.int64), target[starts].astype(np.int64), lengths


def _find_starts(job: CopyJob, boundary: int | None) -> tuple[Int32s, Int32s, Int64s]:
    """All slots, and the positions where runs start."""
    source = np.frombuffer(job.source_slots, dtype=np.int32)
    target = np.frombuffer(job.target_slots, dtype=np.int32)
    is_start = np.ones(len(source), bool)
    is_start[1:] = (np.diff(source) != 1) | (np.diff(target) != 1)
    if boundary is not None:
        is_start |= (source % boundary == 0) | (target % boundary == 0)
    return source, target, np.flatnonzero(is_start)
