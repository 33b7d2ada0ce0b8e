"""A set of byte offsets in 8 bytes each, for the lines of a range that have a record.

A Python set takes 80 to 100; a compressed file is one range, of ten million lines perhaps.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

_MIN_RECENT = 16 * 1024


class OffsetSet:
    """``add``, ``in``, ``len`` and ordered iteration over non-negative integers.

    New members lie in a set; when they are a good part of the whole they are merged into a sorted
    array. So a merge costs O(1) a member in the long run.
    """

    def __init__(self) -> None:
        self._sorted: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._recent: set[int] = set()
        self._greatest = -1  # of the sorted ones

    def __contains__(self, offset: int) -> bool:
        if offset in self._recent:
            return True
        if offset > self._greatest:  # the usual case: lines come in order
            return False
        place = int(self._sorted.searchsorted(offset))
        return place < len(self._sorted) and int(self._sorted[place]) == offset

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def __iter__(self) -> Iterator[int]:
        self._merge()
        return iter(self._sorted.tolist())

    def add(self, offset: int) -> bool:
        """True if ``offset`` is new."""
        if offset in self:
            return False
        self._recent.add(offset)
        if len(self._recent) > max(_MIN_RECENT, len(self._sorted) // 8):
            self._merge()
        return True

    def _merge(self) -> None:
        recent = np.fromiter(self._recent, dtype=np.int64, count=len(self._recent))
        # Stable sort finds the sorted run and merges: near linear here.
        self._sorted = np.sort(np.concatenate((self._sorted, recent)), kind="stable")
        self._recent = set()
        self._greatest = int(self._sorted[-1]) if len(self._sorted) else -1
