"""What one stage of a CPU pipeline gets: matrix products and memory, one thread, with numpy.

python -m pipemax_worker.planner.detection.meter SECONDS    (prints one JSON object)

A program, of which as many run at once as there are stages: they share the memory as stages do.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import numpy as np

PRODUCT_SIZE = 1024
"""Rows and columns: 12 MiB in float32, of the size of a layer's matrices in a small model."""

COPY_BYTES = 64 << 20
"""Larger than caches."""


def main(arguments: list[str]) -> int:
    (seconds,) = map(float, arguments)
    print(json.dumps(measure(seconds)))
    return 0


def measure(
    seconds: float, product_size: int = PRODUCT_SIZE, copy_bytes: int = COPY_BYTES
) -> dict[str, float]:
    """``flops`` (float32), ``read`` and ``copy`` in bytes per second (a copy's bytes count once).
    Each is repeated for a third of ``seconds``, and at least once."""
    left = np.ones((product_size, product_size), np.float32)
    out = np.empty_like(left)
    source = np.ones(copy_bytes // 4, np.float32)
    target = np.empty_like(source)
    span = seconds / 3
    return {
        "flops": 2.0 * product_size**3 * _rate(lambda: np.matmul(left, left, out=out), span),
        "read": copy_bytes * _rate(lambda: source.max(), span),
        "copy": copy_bytes * _rate(lambda: np.copyto(target, source), span),
    }


def _rate(work: Callable[[], object], seconds: float) -> float:
    """Times a second, after one that is not counted."""
    work()
    start, num_done = time.perf_counter(), 0
    while not num_done or time.perf_counter() - start < seconds:
        work()
        num_done += 1
    return num_done / (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
