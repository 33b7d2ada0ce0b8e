"""Where a test runs: on the CPU always, and on this machine's GPUs where there are any."""

from __future__ import annotations

import torch
from pipemax_worker.pipeline.gpus import count_gpus


def devices(num_gpus: int = 1) -> list[str]:
    """Parameters for a test that takes up to ``num_gpus``; names as in ``PipelineSettings``."""
    return ["cpu", "cuda"] if count_gpus() >= num_gpus else ["cpu"]


DEVICES = [torch.device(name) for name in devices()]
"""The same for tests of one stage's tensors."""
