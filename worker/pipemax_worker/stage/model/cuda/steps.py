"""Runs steps with FlashInfer's kernels, and replays those whose shape has been captured.

Launching a layer's kernels one by one takes a host longer than the GPU takes to run them. So a
step is padded to the next of a few shapes; the second time that a shape comes up its launches are
captured as one CUDA graph, which later steps replay with other words at the same addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.stage.batch import Batch
from pipemax_worker.stage.device_tokens import RING_ROWS
from pipemax_worker.stage.model.cuda.gemm_table import GemmTable
from pipemax_worker.stage.model.cuda.graphs import StepGraphs
from pipemax_worker.stage.model.cuda.kernels import FlashInferKernels
from pipemax_worker.stage.model.cuda.library import FlashInfer
from pipemax_worker.stage.model.cuda.step_inputs import (
    StepLayout,
    pack_step,
    pack_tokens,
    prompts_start,
)
from pipemax_worker.stage.model.cuda.step_plan import (
    SAMPLED_MULTIPLE,
    PlanLimits,
    StepPlan,
    StepShape,
    exact_shape,
    padded_shape,
    plan_step,
    round_up,
)
from pipemax_worker.stage.model.cuda.tiles import Int32s
from pipemax_worker.stage.model.cuda.workspace import FIRST_CAPACITY, Capacity, Workspace
from pipemax_worker.stage.model.rope import RotaryEmbedding

Forward = Callable[
    [torch.Tensor, FlashInferKernels, torch.Tensor, torch.Tensor | None], torch.Tensor
]
"""(token ids or hidden states, kernels, rows to sample, where logits go) -> hidden states, logits.
"""


@dataclass(frozen=True)
class _PreparedStep:
    """``words``: the host's, where the tokens are still to be written."""

    plan: StepPlan
    layout: StepLayout
    words: Int32s
    num_words: int


class CudaSteps:
    """One stage's steps. Not thread safe; steps run on the current stream.

    ``max_sampled``: rows for whose logits room is kept. ``uses_graphs`` is for tests.
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
        max_sampled: int = 256,
        uses_graphs: bool = True,
    ) -> None:
        self._config, self._library, self._device, self._dtype = config, library, device, dtype
        self._is_first, self._is_last = is_first, is_last
        self._uses_graphs = uses_graphs
        self._graphs = StepGraphs(device)
        self._prepared: _PreparedStep | None = None
        self._chunk_tokens: int | None = None
        self.gemm_table: GemmTable | None = None
        """What steps are padded by, besides the sizes of graphs."""
        self._angles = rope.table(config.max_position_embeddings)
        max_sampled = round_up(max_sampled, SAMPLED_MULTIPLE)
        self._logits: torch.Tensor | None = None
        if is_last:
            room = (max_sampled, config.vocab_size)
            self._logits = torch.zeros(room, dtype=torch.float32, device=device)
        self.token_ring: torch.Tensor | None = None
        """See ``device_tokens``: for a stage that is first and last."""
        if is_first and is_last:
            self.token_ring = torch.zeros(RING_ROWS, max_sampled, dtype=torch.int32, device=device)
        self._allocate(FIRST_CAPACITY)

    def prepare(self, batch: Batch, kv: torch.Tensor) -> None:
        """Plan a step, for a :meth:`run` of the same batch that follows: what takes the host
        longest can be done before the step's input is there."""
        plan = plan_step(batch.host, self._limits(batch.block_tokens))
        shape = padded_shape(plan, self.gemm_table)
        if not shape.can_be_captured:
            shape = exact_shape(plan)
        self._prepared = self._pack(plan, StepLayout(shape), batch, kv.shape[0] - 1)
        if not self._is_first:
            self._workspace.send_words(self._prepared.num_words)

    @torch.inference_mode()
    def run(
        self, forward: Forward, entering: torch.Tensor, batch: Batch, kv: torch.Tensor
    ) -> torch.Tensor:
        """``forward`` of one micro-batch; ``kv``'s last slot is scratch. Rows as in the batch."""
        if self._prepared is None or self._prepared.plan.host is not batch.host:
            self.prepare(batch, kv)
        prepared, self._prepared = self._prepared, None
        assert prepared is not None
        plan, layout = prepared.plan, prepared.layout
        if self._is_first:
            token_ids = entering.cpu().to(torch.int32).numpy()
            pack_tokens(plan, layout, token_ids, batch.fed_back, prepared.words)
            self._workspace.send_words(prepared.num_words)
            if batch.fed_back is not None:
                layout = StepLayout(replace(layout.shape, is_fed_back=True))
        else:
            self._workspace.entering[: len(entering)].copy_(entering)
        return self._without_padding(self._run_shape(forward, layout), plan, layout.shape)

    def kernels_for(self, batch: Batch) -> FlashInferKernels:
        """For whoever runs something else than a whole step with them. Rows as in the batch, but
        that chunks of one token that follow longer ones are no decoding rows."""
        plan = plan_step(batch.host, self._limits(batch.block_tokens))
        prepared = self._pack(plan, StepLayout(exact_shape(plan)), batch, 0)
        self._workspace.send_words(prepared.num_words)
        return self._kernels(prepared.layout)

    def _pack(
        self, plan: StepPlan, layout: StepLayout, batch: Batch, scratch_slot: int
    ) -> _PreparedStep:
        self._ensure_room(plan, layout)
        words = self._workspace.begin_words()
        num_words = pack_step(plan, layout, batch.block_tokens, scratch_slot, words)
        return _PreparedStep(plan, layout, words, num_words)

    def _run_shape(self, forward: Forward, layout: StepLayout) -> torch.Tensor:
        def launch() -> torch.Tensor:
            return self._launch(forward, layout)

        if self._uses_graphs and layout.shape.can_be_captured:
            return self._graphs.run(layout.shape, launch)
        return launch()

    def _launch(self, forward: Forward, layout: StepLayout) -> torch.Tensor:
        kernels, shape = self._kernels(layout), layout.shape
        if self._is_first:
            entering = self._token_ids(kernels, shape)
        else:
            entering = self._workspace.entering.index_select(0, kernels.source_rows)
        leaving = forward(entering, kernels, kernels.sample_rows, self._room_for_logits(shape))
        if self._is_last:
            return leaving
        # Not where it was computed: a graph keeps the memory of what it returns.
        return self._workspace.leaving[: shape.num_rows].copy_(leaving)

    def _token_ids(self, kernels: FlashInferKernels, shape: StepShape) -> torch.Tensor:
        if not shape.is_fed_back or self.token_ring is None:
            return kernels.token_ids
        fed_back = self.token_ring.view(-1).index_select(0, kernels.fed_back.clamp(min=0))
        return torch.where(kernels.fed_back >= 0, fed_back, kernels.token_ids)

    def _room_for_logits(self, shape: StepShape) -> torch.Tensor | None:
        if self._logits is None or not 0 < shape.num_sampled <= len(self._logits):
            return None
        return self._logits[: shape.num_sampled]

    def _kernels(self, layout: StepLayout) -> FlashInferKernels:
        return FlashInferKernels(self._library, layout, self._workspace, self._angles)

    def _without_padding(
        self, leaving: torch.Tensor, plan: StepPlan, shape: StepShape
    ) -> torch.Tensor:
        """The batch's rows. Hidden states are in memory of their own: they travel on while the next
        step writes to the workspace."""
        if self._is_last:
            return leaving[: len(plan.host.sample_rows)]
        num_decode, num_prompt_rows = plan.decode.num_rows, plan.prompts.num_rows
        first = prompts_start(plan, shape)
        return torch.cat((leaving[:num_decode], leaving[first : first + num_prompt_rows]))

    def _limits(self, block_tokens: int) -> PlanLimits:
        config = self._config
        return PlanLimits(
            heads_per_kv_head=config.num_attention_heads // config.num_key_value_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            block_tokens=block_tokens,
            max_partial_results=self._workspace.capacity.partial_results,
            chunk_tokens=self._chunk_tokens,
        )

    def _ensure_room(self, plan: StepPlan, layout: StepLayout) -> None:
        needed = Capacity(
            layout.shape.num_rows,
            layout.num_words(len(plan.pages)),
            max(plan.decode.tiles.num_partial_results, plan.prompts.tiles.num_partial_results),
        )
        if not self._workspace.capacity.holds(needed):
            if self._device.type == "cuda":
                self._graphs.clear()
            self._allocate(self._workspace.capacity.grown_for(needed))

    def _allocate(self, capacity: Capacity) -> None:
        self._workspace = Workspace(
            self._config, capacity, self._device, self._dtype, self._library.copy_words
        )
