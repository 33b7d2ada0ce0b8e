"""A model whose every token depends on all KV before it, in exact integer arithmetic.

A stage keeps the value of each token in the KV of all its layers. The value that leaves a position
mixes its own with a checksum over the values of all positions up to it, read from the KV; the next
token is the last stage's value. So one wrong KV element changes the text, and ``fake_model``
says in plain Python what the text must be.

The functions ``main*`` are entry points of stage processes: the real stage with this model.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import torch
from kit.fake_model import PRIME
from pipemax_worker.contract.geometry import KVGeometry
from pipemax_worker.contract.messages import StageConfig
from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.errors import ModelNotFoundError
from pipemax_worker.stage import main as stage_main
from pipemax_worker.stage.batch import Batch
from pipemax_worker.stage.kv import nvme as stage_nvme


class FakeModel:
    weight_bytes = 1234

    def __init__(
        self, config: StageConfig, model_config: ModelConfig, geometry: KVGeometry, device: Any
    ) -> None:
        self.config = config
        self.hidden_size = model_config.hidden_size
        self.dtype = getattr(torch, config.dtype)
        self.num_forwards = 0

    def forward(self, entering: torch.Tensor, batch: Batch, kv: torch.Tensor) -> torch.Tensor:
        self.num_forwards += 1
        is_first = entering.dtype == torch.int64
        # A first stage gets its token ids in host memory, wherever it computes.
        values = (entering if is_first else entering[:, 0]).to(kv.device).double()  # [num_tokens]
        kv[batch.indices.slots, :, :, batch.indices.offsets] = values.to(kv.dtype)[
            :, None, None, None, None
        ]
        leaving = torch.empty_like(values)
        for index in range(batch.num_requests):
            rows = slice(
                int(batch.indices.query_starts[index]), int(batch.indices.query_starts[index + 1])
            )
            table = batch.indices.block_tables[
                int(batch.indices.table_starts[index]) : int(batch.indices.table_starts[index + 1])
            ]
            leaving[rows] = self._mix(values[rows], batch.indices.positions[rows], kv[table])
        if self.config.stage < self.config.num_stages - 1:
            return leaving.to(self.dtype)[:, None].repeat(1, self.hidden_size)
        sampled = leaving[batch.indices.sample_rows].long()  # [num_sampled]
        return torch.nn.functional.one_hot(sampled, PRIME).to(self.dtype)

    def _mix(
        self, values: torch.Tensor, positions: torch.Tensor, blocks: torch.Tensor
    ) -> torch.Tensor:
        # [num_blocks, layers, 2, block_tokens, heads, dim] -> [positions, all elements of one]
        elements = blocks.permute(0, 3, 1, 2, 4, 5).flatten(0, 1).flatten(1)
        context = elements[: int(positions[-1]) + 1].double()
        mean = context.mean(1)
        if not torch.equal(context, mean[:, None].expand_as(context)):
            mean = mean + 1  # layers or heads disagree: let the text show it
        weights = torch.arange(1, len(mean) + 1, dtype=torch.float64, device=mean.device)
        checksums = torch.cumsum(weights * mean, 0)[positions] % PRIME
        return (values + checksums) % PRIME


def main(config_bytes: bytes) -> None:
    stage_main.main(config_bytes, FakeModel)


class SlowModel(FakeModel):
    def forward(self, entering: torch.Tensor, batch: Batch, kv: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return super().forward(entering, batch, kv)


def main_slow(config_bytes: bytes) -> None:
    stage_main.main(config_bytes, SlowModel)


class DyingModel(FakeModel):
    """Stage 1 is gone in its third forward, without a word."""

    def forward(self, entering: torch.Tensor, batch: Batch, kv: torch.Tensor) -> torch.Tensor:
        if self.num_forwards == 2 and self.config.stage == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return super().forward(entering, batch, kv)


def main_dying(config_bytes: bytes) -> None:
    stage_main.main(config_bytes, DyingModel)


class FailingModel(FakeModel):
    """Stage 0 raises in its third forward."""

    def forward(self, entering: torch.Tensor, batch: Batch, kv: torch.Tensor) -> torch.Tensor:
        if self.num_forwards == 2 and self.config.stage == 0:
            raise ZeroDivisionError("the third forward")
        return super().forward(entering, batch, kv)


def main_failing(config_bytes: bytes) -> None:
    stage_main.main(config_bytes, FailingModel)


def main_with_late_words(config_bytes: bytes) -> None:
    """Exits as one that has said why; the words come a while later, as on a machine whose driver
    has no time to read."""
    if os.fork():
        os._exit(ModelNotFoundError.exit_code)
    time.sleep(0.5)
    stage_main.main(config_bytes, missing_shard)


def missing_shard(*_: object) -> FakeModel:
    raise ModelNotFoundError("shard model-00002-of-00002.safetensors is missing")


def main_without_shard(config_bytes: bytes) -> None:
    stage_main.main(config_bytes, missing_shard)


def main_that_exits(config_bytes: bytes) -> None:
    os._exit(3)


def main_that_cannot_park(config_bytes: bytes) -> None:
    """The disk is full when the KV file is to be kept."""

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    stage_nvme.write_index = refuse  # type: ignore[assignment]
    stage_main.main(config_bytes, FakeModel)
