"""The first stage's table of token embeddings: on its device, or beside it in host memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.contract.weights import has_host_embedding
from pipemax_worker.stage.model.checkpoint import WeightSource
from pipemax_worker.stage.model.cuda.host_table import move_to_host

EMBEDDING = "model.embed_tokens.weight"

RowLookup = Callable[[torch.Tensor], torch.Tensor]


class TokenEmbedding:
    """Looks up token ids [num_tokens] -> hidden [num_tokens, hidden].

    table       on the device, which an LM head may share; None: in host memory.
    """

    def __init__(self, table: torch.Tensor | None, look_up: RowLookup) -> None:
        self.table = table
        self._look_up = look_up

    @property
    def weight_bytes(self) -> int:
        """Of the device's memory."""
        return 0 if self.table is None else self.table.nbytes

    def __call__(self, token_ids: torch.Tensor) -> torch.Tensor:
        return self._look_up(token_ids)


def read_embedding(
    config: ModelConfig, weights: WeightSource, device: torch.device, *, is_only_stage: bool
) -> TokenEmbedding:
    """In host memory where ``has_host_embedding`` says so and the GPU can read it there.

    It comes by way of the device, where random weights are made: nothing else lies there yet.
    Raises what reading raises.
    """
    table = weights.read(EMBEDDING, config.vocab_size, config.hidden_size)
    if has_host_embedding(config, device.type, is_only_stage=is_only_stage):
        moved = move_to_host(table)
        if moved is not None:
            del table
            torch.cuda.empty_cache()
            return TokenEmbedding(None, moved)
    on_device = table
    return TokenEmbedding(on_device, lambda token_ids: F.embedding(token_ids, on_device))
