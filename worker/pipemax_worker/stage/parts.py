"""What a stage's loop is put together from, as the loop sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch

from pipemax_worker.contract.messages import NewRequest, SampledToken, Shutdown, StageInput
from pipemax_worker.stage.batch import Batch
from pipemax_worker.stage.feedback import FedBackTokens


class Model(Protocol):
    def forward(
        self, entering: torch.Tensor, batch: Batch, kv: torch.Tensor, /
    ) -> torch.Tensor: ...


@runtime_checkable
class PreparingModel(Protocol):
    def prepare(self, batch: Batch, kv: torch.Tensor, /) -> None:
        """Do what can be done for a forward of ``batch`` before its input is there."""
        ...


class ChosenTokens(Protocol):
    """Tokens that the device chooses; ``finish`` once it has."""

    @property
    def on_device(self) -> torch.Tensor: ...

    def finish(self) -> Sequence[SampledToken]: ...


class TokenSampler(Protocol):
    @property
    def grammar_wait_seconds(self) -> float: ...

    def add(self, request: NewRequest) -> None: ...

    def remove(self, request_id: int) -> None: ...

    def sample(
        self, request_ids: Sequence[int], logits: torch.Tensor
    ) -> Sequence[SampledToken]: ...

    def launch(self, request_ids: Sequence[int], logits: torch.Tensor) -> ChosenTokens | None:
        """The same without waiting; None if some row needs what the host alone knows."""
        ...


class TokenSink(Protocol):
    def deliver(self, tokens: FedBackTokens) -> None: ...


class Inbox(Protocol):
    def receive(self, wakeup_fd: int) -> StageInput | Shutdown | None:
        """The next message, or None once ``wakeup_fd`` is readable and no message is there."""
        ...

    def receive_now(self) -> StageInput | Shutdown | None:
        """The next message if it is there."""
        ...
