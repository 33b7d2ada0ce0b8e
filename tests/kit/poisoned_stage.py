"""Real stages that cannot stand a certain token: entry points of stage processes, one for each way
to go. The tiny model of ``kit.jobs`` does not generate it by itself in the tests that use it."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from typing import Any

import torch
from pipemax_worker.contract.geometry import KVGeometry
from pipemax_worker.contract.messages import StageConfig
from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.stage import main as stage_main
from pipemax_worker.stage.batch import Batch

POISON_TOKEN_ID = 511
"""The last one of ``kit.jobs``; that is not imported, since every stage would import it anew."""


class Poisoned:
    """A stage's model that goes at the poison."""

    def __init__(self, model: Any, go: Callable[[], None]) -> None:
        self._model = model
        self._go = go
        self.weight_bytes: int = model.weight_bytes

    def forward(self, entering: torch.Tensor, batch: Batch, kv: torch.Tensor) -> torch.Tensor:
        if entering.dtype == torch.int64 and bool((entering == POISON_TOKEN_ID).any()):
            self._go()
        found: torch.Tensor = self._model.forward(entering, batch, kv)
        return found


def _run(config_bytes: bytes, go: Callable[[], None]) -> None:
    def load(
        config: StageConfig, model_config: ModelConfig, geometry: KVGeometry, device: torch.device
    ) -> Poisoned:
        return Poisoned(stage_main.load_model(config, model_config, geometry, device), go)

    stage_main.main(config_bytes, load)


def main_killed(config_bytes: bytes) -> None:
    """As a fault in a kernel does it."""
    _run(config_bytes, lambda: os.kill(os.getpid(), signal.SIGUSR1))


def main_raising(config_bytes: bytes) -> None:
    def fail() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    _run(config_bytes, fail)


def main_losing_its_gpu(config_bytes: bytes) -> None:
    """As CUDA says it of a card whose memory has failed."""

    def fail() -> None:
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")

    _run(config_bytes, fail)


def main_exiting(config_bytes: bytes) -> None:
    _run(config_bytes, lambda: os._exit(3))


def main_hanging(config_bytes: bytes) -> None:
    """As a kernel that never comes back."""
    _run(config_bytes, lambda: os.kill(os.getpid(), signal.SIGSTOP))


def main_with_small_files(config_bytes: bytes) -> None:
    """No file may be longer than 64 KiB: what a full disk is to who may not mount a small one."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    stage_main.main(config_bytes)
