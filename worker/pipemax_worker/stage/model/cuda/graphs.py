"""Captured steps: the launches of one shape as one CUDA graph."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pipemax_worker.stage.model.cuda.step_plan import StepShape

MAX_GRAPHS = 192
"""Some shapes come up all the time, many once or twice."""


@dataclass
class CapturedStep:
    """``leaving``: what the step computes, in memory that later steps write to."""

    graph: torch.cuda.CUDAGraph
    leaving: torch.Tensor

    def replay(self) -> torch.Tensor:
        self.graph.replay()
        return self.leaving


class StepGraphs:
    """Graphs by shape; the one that was used least recently goes first.

    A shape is captured the second time it comes up: the first time loads its kernels, which a
    capture must not. All graphs share one pool of memory, for they never run at the same time.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._captured: OrderedDict[StepShape, CapturedStep | None] = OrderedDict()
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None

    def run(self, shape: StepShape, launch: Callable[[], torch.Tensor]) -> torch.Tensor:
        """``launch`` launches a step of ``shape`` and returns what it computes."""
        if shape not in self._captured:
            self._captured[shape] = None
            self._forget_oldest()
            return launch()
        self._captured.move_to_end(shape)
        captured = self._captured[shape]
        if captured is None:
            captured = self._captured[shape] = self._capture(launch)
        return captured.replay()

    @property
    def num_captured(self) -> int:
        return sum(captured is not None for captured in self._captured.values())

    def clear(self) -> None:
        """Forget all: memory that they know has moved."""
        torch.cuda.synchronize(self._device)
        self._captured.clear()

    def _forget_oldest(self) -> None:
        while len(self._captured) > MAX_GRAPHS:
            self._captured.popitem(last=False)

    def _capture(self, launch: Callable[[], torch.Tensor]) -> CapturedStep:
        """Other threads may go on using CUDA (copies do) while this one records."""
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        current, stream = torch.cuda.current_stream(self._device), self._capture_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                leaving = launch()
            finally:
                graph.capture_end()
        current.wait_stream(stream)
        return CapturedStep(graph, leaving)

    def _capture_stream(self) -> torch.cuda.Stream:
        """Always the same: cuBLAS keeps 32 MiB for every stream that it has ever seen."""
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        return self._stream
