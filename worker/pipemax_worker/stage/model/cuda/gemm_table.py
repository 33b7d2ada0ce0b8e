"""How long a stage's matrix products take, by number of rows and library. Pure.

A product's time is no smooth function of its rows: tiles fill the GPU in waves, and which tile a
library chooses jumps. On an H200, 136 rows of Qwen2.5-7B's gate and up projections take 81 us, 144
rows 75 us. So steps are padded to row counts that are fast, and each product goes to the faster
library at its number of rows.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cached_property

import msgspec

LIBRARIES = ("cublas", "cublaslt")
"""As ``torch.backends.cuda.preferred_blas_library`` names them; the first is the default."""

LEAST_GAIN = 0.02
"""Of a product's time, for leaving the default: less is noise."""

ROW_COUNTS = (*range(8, 257, 8), *range(288, 513, 32), *range(576, 769, 64))
"""What is measured; above the last a step computes, and its padding does not matter."""

MOST_PADDING = 32
"""Rows that a step is padded by, at most, to be faster."""


class GemmTable(msgspec.Struct, frozen=True, dict=True):
    """Microseconds of a stage's products of each kind (``qkv``, ``down``, ...), all layers'
    together, by library, one for each of ``row_counts``."""

    row_counts: tuple[int, ...]
    microseconds: dict[str, dict[str, tuple[float, ...]]]

    def library_for(self, kind: str, num_rows: int) -> str:
        """The faster one; the default for what was not measured."""
        times = self.microseconds.get(kind)
        if times is None or num_rows > self.row_counts[-1]:
            return LIBRARIES[0]
        return _fastest(times, bisect_left(self.row_counts, num_rows))

    def padded_rows(self, num_rows: int) -> int:
        """The number of rows, no less than ``num_rows``, at which a step is fastest."""
        first = bisect_left(self.row_counts, num_rows)
        last = bisect_left(self.row_counts, num_rows + MOST_PADDING + 1)
        places = range(first, max(last, first + 1))
        if num_rows > self.row_counts[-1]:
            return num_rows
        best = min(places, key=lambda place: self.step_microseconds[place])
        return self.row_counts[best]

    @cached_property
    def step_microseconds(self) -> tuple[float, ...]:
        """All products of a step, by the faster library each."""
        return tuple(
            sum(times[_fastest(times, place)][place] for times in self.microseconds.values())
            for place in range(len(self.row_counts))
        )


def _fastest(times: dict[str, tuple[float, ...]], place: int) -> str:
    default = times[LIBRARIES[0]][place]
    name = min(times, key=lambda library: times[library][place])
    return name if times[name][place] < (1 - LEAST_GAIN) * default else LIBRARIES[0]
