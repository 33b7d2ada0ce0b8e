"""Runs of slots: what a copy job becomes before it reaches a link. Pure."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from pipemax_worker.contract.transfers import CopyJob


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
    source = np.frombuffer(job.source_slots, dtype=np.int32)
    target = np.frombuffer(job.target_slots, dtype=np.int32)
    if len(source) == 0:
        return []
    is_start = (np.diff(source) != 1) | (np.diff(target) != 1)
    if boundary is not None:
        is_start |= (source[1:] % boundary == 0) | (target[1:] % boundary == 0)
    edges = [0, *(np.flatnonzero(is_start) + 1).tolist(), len(source)]
    sources, targets = source.tolist(), target.tolist()
    runs = []
    for start, end in itertools.pairwise(edges):
        for position in range(start, end, max_length):
            length = min(max_length, end - position)
            runs.append(SlotRun(position, sources[position], targets[position], length))
    return runs
