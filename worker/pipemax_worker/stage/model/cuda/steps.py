"""Runs steps with FlashInfer's kernels, and replays those whose shape has been captured.

Launching a layer's kernels one by one takes a host longer than the GPU takes to run them. So a
step is padded to the next of a few shapes; the second time that a shape comes up its launches are
captured as one CUDA graph, which later steps replay with other words at the same addresses.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.stage.batch import Batch
from pipemax_worker.stage.device_tokens import RING_ROWS
from pipemax_worker.stage.model.cuda.kernels import FlashInferKernels, Workspace
from pipemax_worker.stage.model.cuda.library import FlashInfer
from pipemax_worker.stage.model.cuda.step_inputs import StepLayout, pack_step
from pipemax_worker.stage.model.cuda.step_plan import (
    PlanLimits,
    StepPlan,
    StepShape,
    exact_shape,
    padded_shape,
    plan_step,
)
from pipemax_worker.stage.model.cuda.tiles import Int32s
from pipemax_worker.stage.model.rope import RotaryEmbedding

LOGGER = logging.getLogger(__name__)

MAX_GRAPHS = 192
MAX_PARTIAL_RESULTS = 4096
FIRST_WORDS = 1 << 16
FIRST_ROWS = 2048
MAX_SAMPLED = 2048

Forward = Callable[[torch.Tensor, FlashInferKernels, torch.Tensor], torch.Tensor]
"""(token ids or hidden states, kernels, rows to sample) -> hidden states or logits."""


@dataclass
class _Graph:
    graph: torch.cuda.CUDAGraph
    leaving: torch.Tensor


class CudaSteps:
    """One stage's steps. ``forward`` runs its layers with the kernels it is given.

    ``uses_graphs`` is for tests. Not thread safe; steps run on the current stream.
    """

    def __init__(
        self,
        config: ModelConfig,
        library: FlashInfer,
        rope: RotaryEmbedding,
        device: torch.device,
        dtype: torch.dtype,
        *,
        is_first: bool,
        is_last: bool,
        uses_graphs: bool = True,
    ) -> None:
        self._config, self._library, self._device, self._dtype = config, library, device, dtype
        self._is_first, self._is_last = is_first, is_last
        self._uses_graphs = uses_graphs
        self._chunk_tokens: int | None = None
        self._angles = rope.table(config.max_position_embeddings)
        self._graphs: OrderedDict[StepShape, _Graph | None] = OrderedDict()
        self._pool: Any = None
        self._words = np.zeros(0, np.int32)
        self._staging = torch.empty(0, dtype=torch.int32)
        self._entering = torch.empty(0, config.hidden_size, dtype=dtype, device=device)
        self.token_ring: torch.Tensor | None = None
        """See ``device_tokens``: for a stage that is first and last."""
        if is_first and is_last:
            self.token_ring = torch.zeros(RING_ROWS, MAX_SAMPLED, dtype=torch.int32, device=device)
        self._allocate(FIRST_ROWS, FIRST_WORDS, MAX_PARTIAL_RESULTS)

    @torch.inference_mode()
    def run(
        self, forward: Forward, entering: torch.Tensor, batch: Batch, kv: torch.Tensor
    ) -> torch.Tensor:
        """``forward`` of one micro-batch; ``kv``'s last slot is scratch. Rows as in the batch."""
        plan = plan_step(batch.host, self._limits(batch.block_tokens))
        shape = padded_shape(plan)
        if not shape.can_be_captured:
            shape = exact_shape(plan)
        shape = replace(shape, is_fed_back=batch.fed_back is not None)
        layout = StepLayout(shape)
        self._ensure_room(plan, layout)
        if self._is_first:
            token_ids = entering.cpu().to(torch.int32).numpy()
            self._send_words(plan, layout, batch, token_ids, kv.shape[0] - 1)
        else:
            self._send_words(plan, layout, batch, None, kv.shape[0] - 1)
            self._entering[: entering.shape[0]].copy_(entering)
        leaving = self._run_shape(forward, shape, layout)
        return self._without_padding(leaving, plan, shape)

    def kernels_for(self, batch: Batch) -> FlashInferKernels:
        """For whoever runs something else than a whole step with them. Rows as in the batch, but
        that chunks of one token that follow longer ones are no decoding rows."""
        plan = plan_step(batch.host, self._limits(batch.block_tokens))
        layout = StepLayout(exact_shape(plan))
        self._ensure_room(plan, layout)
        self._send_words(plan, layout, batch, None, 0)
        return self._kernels(layout)

    def _run_shape(self, forward: Forward, shape: StepShape, layout: StepLayout) -> torch.Tensor:
        if not (self._uses_graphs and shape.can_be_captured):
            return self._launch(forward, layout)
        if shape not in self._graphs:
            self._graphs[shape] = None  # seen once: its kernels are loaded now
            return self._launch(forward, layout)
        self._graphs.move_to_end(shape)
        captured = self._graphs[shape]
        if captured is None:
            captured = self._graphs[shape] = self._capture(forward, layout)
            self._forget_oldest()
        captured.graph.replay()
        return captured.leaving

    def _launch(self, forward: Forward, layout: StepLayout) -> torch.Tensor:
        kernels = self._kernels(layout)
        if self._is_first:
            entering = kernels.token_ids
            if layout.shape.is_fed_back and self.token_ring is not None:
                fed_back = self.token_ring.view(-1).index_select(0, kernels.fed_back.clamp(min=0))
                entering = torch.where(kernels.fed_back >= 0, fed_back, entering)
        else:
            entering = self._entering.index_select(0, kernels.source_rows)
        return forward(entering, kernels, kernels.sample_rows)

    def _kernels(self, layout: StepLayout) -> FlashInferKernels:
        max_pages = len(self._words) - layout["pages"].start
        return FlashInferKernels(self._library, layout, self._workspace, max_pages)

    def _capture(self, forward: Forward, layout: StepLayout) -> _Graph:
        """Other threads may go on using CUDA (copies do) while this one records."""
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        current = torch.cuda.current_stream(self._device)
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                leaving = self._launch(forward, layout)
            finally:
                graph.capture_end()
        current.wait_stream(stream)
        return _Graph(graph, leaving)

    def _forget_oldest(self) -> None:
        while len(self._graphs) > MAX_GRAPHS:
            self._graphs.popitem(last=False)

    def _send_words(
        self,
        plan: StepPlan,
        layout: StepLayout,
        batch: Batch,
        token_ids: Int32s | None,
        scratch_slot: int,
    ) -> None:
        self._sent.synchronize()  # the words of the step before have left the host
        num_words = pack_step(
            plan, layout, token_ids, batch.fed_back, batch.block_tokens, scratch_slot, self._words
        )
        self._workspace.words[:num_words].copy_(self._staging[:num_words], non_blocking=True)
        self._sent.record()

    def _without_padding(
        self, leaving: torch.Tensor, plan: StepPlan, shape: StepShape
    ) -> torch.Tensor:
        """The batch's rows. Hidden states are in memory of their own: they travel on while the next
        step writes to the graph's."""
        if self._is_last:
            return leaving[: len(plan.host.sample_rows)]
        num_decode, num_prompt_rows = plan.decode.num_rows, plan.prompts.num_rows
        first = shape.decode.num_rows
        return torch.cat((leaving[:num_decode], leaving[first : first + num_prompt_rows]))

    def _limits(self, block_tokens: int) -> PlanLimits:
        config = self._config
        return PlanLimits(
            heads_per_kv_head=config.num_attention_heads // config.num_key_value_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            block_tokens=block_tokens,
            max_partial_results=self._max_partial_results,
            chunk_tokens=self._chunk_tokens,
        )

    def _ensure_room(self, plan: StepPlan, layout: StepLayout) -> None:
        """Grow what the step does not fit in; captured graphs know the old addresses."""
        num_words = layout.num_words(len(plan.pages))
        partial = max(plan.decode.tiles.num_partial_results, plan.prompts.tiles.num_partial_results)
        rows = layout.shape.num_rows
        fits = (
            num_words <= len(self._words)
            and partial <= self._max_partial_results
            and rows <= len(self._workspace.ones)
        )
        if not fits:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self._graphs.clear()
            self._allocate(
                max(2 * rows, len(self._workspace.ones)),
                max(2 * num_words, len(self._words)),
                max(partial, self._max_partial_results),
            )

    def _allocate(self, max_rows: int, max_words: int, max_partial_results: int) -> None:
        config, device = self._config, self._device
        rows = max_partial_results * config.num_attention_heads
        results_bytes = rows * config.head_dim * self._dtype.itemsize
        self._max_partial_results = max_partial_results
        self._workspace = Workspace(
            words=torch.zeros(max_words, dtype=torch.int32, device=device),
            partial_results=torch.empty(results_bytes + 4 * rows, dtype=torch.uint8, device=device),
            scores_offset_bytes=results_bytes,
            row_numbers=torch.arange(max_rows + 1, dtype=torch.int32, device=device),
            ones=torch.ones(max_rows, dtype=torch.int32, device=device),
            angles=self._angles,
        )
        self._staging = torch.zeros(max_words, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._words = self._staging.numpy()
        self._sent = _SentMark(device)
        if not self._is_first:
            self._entering = torch.zeros(
                max_rows, config.hidden_size, dtype=self._dtype, device=device
            )


class _SentMark:
    """When the staged words have been copied; nothing to wait for on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._event: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def record(self) -> None:
        if self._event is not None:
            self._event.record()

    def synchronize(self) -> None:
        if self._event is not None:
            self._event.synchronize()
