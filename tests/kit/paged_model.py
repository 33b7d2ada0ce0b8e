"""A model cut into stages in one process, with paged KV in scattered slots and no driver."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from pipemax_worker.contract.geometry import num_blocks_for
from pipemax_worker.contract.messages import ScheduledRequest
from pipemax_worker.contract.model_config import load_model_config
from pipemax_worker.contract.model_cut import ModelCut
from pipemax_worker.contract.transfers import pack_int32
from pipemax_worker.stage.batch import Batch, build_batch
from pipemax_worker.stage.model.checkpoint import Checkpoint
from pipemax_worker.stage.model.model import StageModel

CPU = torch.device("cpu")


class PagedModel:
    """Forwards chunks of requests through all stages; every request gets random slots.

    KV memory that nobody has written is NaN, so that reading it shows. (fp8 and the PyTorch path
    gather whole blocks and mask afterwards, so for them it is zero.)
    """

    def __init__(
        self,
        folder: Path,
        layers_of_stage: Sequence[int],
        *,
        block_tokens: int = 4,
        kv_dtype: torch.dtype = torch.float32,
        dtype: torch.dtype = torch.float32,
        device: torch.device = CPU,
        uses_native: bool = True,
        num_slots: int = 160,
        mlp_left_by_stage: Sequence[bool] = (),
    ) -> None:
        self.config = load_model_config(folder)
        self.block_tokens, self.device = block_tokens, device
        self.stages: list[StageModel] = []
        first = 0
        cut = ModelCut(tuple(layers_of_stage), tuple(mlp_left_by_stage))
        for index, count in enumerate(layers_of_stage):
            is_last = index == len(layers_of_stage) - 1
            weights = Checkpoint(folder, device, dtype)
            model = StageModel(
                self.config, weights, first, count, index == 0, is_last, device, dtype, kv_dtype,
                mlp_layers=cut.layers(index).mlp,
            )  # fmt: skip
            if not uses_native:
                model._native = None
            self.stages.append(model)
            first += count
        fill = float("nan") if uses_native and device.type == "cpu" else 0.0
        heads = (self.config.num_key_value_heads, self.config.head_dim)
        self.kv = [
            torch.full((num_slots + 1, count, 2, block_tokens, *heads), fill).to(device, kv_dtype)
            for count in layers_of_stage
        ]
        self._free = torch.randperm(num_slots, generator=torch.Generator().manual_seed(7)).tolist()
        self._tables: dict[int, list[int]] = {}
        self._lengths: dict[int, int] = {}

    def batch(self, chunks: dict[int, Sequence[int]]) -> Batch:
        """The micro-batch that appends ``chunks`` (request id -> token ids)."""
        scheduled = []
        for request_id, token_ids in chunks.items():
            computed = self._lengths.get(request_id, 0)
            self._lengths[request_id] = computed + len(token_ids)
            table = self._tables.setdefault(request_id, [])
            while len(table) < num_blocks_for(self._lengths[request_id], self.block_tokens):
                table.append(self._free.pop())
            scheduled.append(
                ScheduledRequest(
                    request_id, computed, len(token_ids), None, pack_int32(table), True
                )
            )
        return build_batch(scheduled, self.block_tokens, self.device)

    def forward(self, chunks: dict[int, Sequence[int]]) -> torch.Tensor:
        """Logits after the last token of each chunk, [num_requests, vocab]."""
        batch = self.batch(chunks)
        token_ids = [token for chunk in chunks.values() for token in chunk]
        hidden = torch.tensor(token_ids, device=self.device)
        for stage, kv in zip(self.stages, self.kv, strict=True):
            hidden = stage.forward(hidden, batch, kv)
        return hidden

    def generate(
        self, prompts: Sequence[Sequence[int]], num_tokens: int, chunk_tokens: int
    ) -> list[list[int]]:
        """Greedy tokens of all prompts together; prompts are prefilled in chunks."""
        outputs: list[list[int]] = [[] for _ in prompts]
        pending = {index: list(prompt) for index, prompt in enumerate(prompts)}
        while pending:
            chunks = {index: tokens[:chunk_tokens] for index, tokens in pending.items()}
            logits = self.forward(chunks)
            for index, token in zip(chunks, logits.argmax(-1).tolist(), strict=True):
                pending[index] = pending[index][chunk_tokens:]
                if not pending[index]:
                    outputs[index].append(token)
                    pending[index] = [token]
                if len(outputs[index]) == num_tokens:
                    del pending[index]
        return outputs
