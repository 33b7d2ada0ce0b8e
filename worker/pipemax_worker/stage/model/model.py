"""One stage's share of a model: its layers, the embedding on the first, the LM head on the last."""

from __future__ import annotations

from functools import partial

import torch

from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.errors import InvariantError
from pipemax_worker.stage.batch import Batch
from pipemax_worker.stage.model.checkpoint import WeightSource
from pipemax_worker.stage.model.cuda.create import choose_libraries, create_cuda_steps
from pipemax_worker.stage.model.embedding import EMBEDDING, read_embedding
from pipemax_worker.stage.model.kernels import Kernels
from pipemax_worker.stage.model.layer import AttentionBlock, FeedForwardBlock
from pipemax_worker.stage.model.linear import Linear
from pipemax_worker.stage.model.native.kernels import NativeBackend
from pipemax_worker.stage.model.rope import RotaryEmbedding
from pipemax_worker.stage.model.torch_kernels import TorchKernels


class StageModel:
    """Layers ``first_layer`` to ``first_layer + num_layers`` of a model, and its embedding or head;
    of these layers the attention alone if ``mlp_layers`` says whose MLPs are its own.

    Reads from ``weights`` the tensors of its own parts, plus the embedding if ``is_first`` and the
    final norm and LM head if ``is_last`` (the embedding's tensor, if the two are tied). Weights and
    activations are ``dtype``; norms, RoPE angles and logits are computed in float32.

    Raises what reading raises: ModelNotFoundError and UnsupportedModelError from a checkpoint.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: WeightSource,
        first_layer: int,
        num_layers: int,
        is_first: bool,
        is_last: bool,
        device: torch.device,
        dtype: torch.dtype,
        kv_dtype: torch.dtype | None = None,
        max_num_requests: int = 256,
        mlp_layers: range | None = None,
    ) -> None:
        """``kv_dtype``: what the kernels are built for; None: ``dtype``. ``max_num_requests``: rows
        of a batch for whose logits room is kept. ``mlp_layers``: as ``ModelCut`` gives them."""
        self._embedding = None
        if is_first:
            self._embedding = read_embedding(config, weights, device, is_only_stage=is_last)
        attention_layers = range(first_layer, first_layer + num_layers)
        mlp_layers = attention_layers if mlp_layers is None else mlp_layers
        self._blocks = _read_blocks(config, weights, attention_layers, mlp_layers)
        table = None if self._embedding is None else self._embedding.table
        self._head = LMHead(config, weights, table) if is_last else None
        self._rope = RotaryEmbedding(config, device, dtype)
        self._native = NativeBackend.create(config, device, dtype)
        self._kv_dtype = kv_dtype or dtype
        self._cuda = create_cuda_steps(
            config,
            self._rope,
            device,
            dtype,
            self._kv_dtype,
            is_first=is_first,
            is_last=is_last,
            max_sampled=max_num_requests,
        )
        if self._cuda is not None:
            choose_libraries(self._cuda, [block.matrices for block in self._blocks], device)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights on the device."""
        total = sum(block.weight_bytes for block in self._blocks)
        if self._embedding is not None:
            total += self._embedding.weight_bytes
        return total + (0 if self._head is None else self._head.weight_bytes)

    @property
    def overlaps(self) -> bool:
        """Whether a forward is launched without waiting for the one before it."""
        return self._cuda is not None

    @property
    def token_ring(self) -> torch.Tensor | None:
        """Where a stage that is first and last finds tokens that it has just sampled
        (``device_tokens``)."""
        return None if self._cuda is None else self._cuda.token_ring

    def prepare(self, batch: Batch, kv: torch.Tensor) -> None:
        """Plan a forward of ``batch`` while its input is on its way."""
        if self._cuda is not None and kv.dtype == self._kv_dtype:
            self._cuda.prepare(batch, kv)

    @torch.inference_mode()
    def forward(
        self, hidden_or_token_ids: torch.Tensor, batch: Batch, kv: torch.Tensor
    ) -> torch.Tensor:
        """Run one micro-batch; appends its keys and values to ``kv``.

        ``hidden_or_token_ids``: token ids [num_tokens] on the first stage, else the previous
        stage's result [num_tokens, hidden]. ``kv``: [num_slots + 1, num_layers, 2, block_tokens,
        num_kv_heads, head_dim] of any KV dtype; the last slot is scratch. Returns hidden
        [num_tokens, hidden]; on the last stage logits [num_sampled, vocab] float32, for the batch's
        sample rows alone: valid until the next step.

        Raises InvariantError if the batch does not fit the input or ``kv``.
        """
        _check(hidden_or_token_ids, batch, kv)
        if self._cuda is not None and kv.dtype == self._kv_dtype:
            run = partial(self._run_layers, kv=kv)
            return self._cuda.run(run, hidden_or_token_ids, batch, kv)
        entering = hidden_or_token_ids.to(batch.device)
        kernels = self._kernels(batch, kv)
        return self._run_layers(entering, kernels, batch.indices.sample_rows, None, kv)

    def _run_layers(
        self,
        hidden: torch.Tensor,
        kernels: Kernels,
        sample_rows: torch.Tensor,
        out: torch.Tensor | None,
        kv: torch.Tensor,
    ) -> torch.Tensor:
        """``out``: where the logits go, if it is given and there are any."""
        if self._embedding is not None:
            hidden = self._embedding(hidden)
        num_attended = 0
        for block in self._blocks:
            if isinstance(block, AttentionBlock):
                hidden = block(hidden, kv[:, num_attended], kernels)
                num_attended += 1
            else:
                hidden = block(hidden, kernels)
        if self._head is None:
            return hidden
        return self._head(hidden, sample_rows, kernels, out)

    def _kernels(self, batch: Batch, kv: torch.Tensor) -> Kernels:
        cos, sin = self._rope(batch.indices.positions)
        if self._native is not None and self._native.supports(kv):
            return self._native.begin(batch, cos, sin)
        return TorchKernels(batch, cos, sin)


class LMHead:
    """The final norm and the projection to the vocabulary, for the rows that are sampled."""

    def __init__(
        self, config: ModelConfig, weights: WeightSource, embedding: torch.Tensor | None
    ) -> None:
        """``embedding``: this stage's, if it is on the device; a tied head on a GPU shares its
        memory."""
        self._eps = config.rms_norm_eps
        self._vocab_size = config.vocab_size
        self._norm = weights.read("model.norm.weight", config.hidden_size)
        shape = (config.vocab_size, config.hidden_size)
        self.weight_bytes = self._norm.nbytes
        if config.tie_word_embeddings and embedding is not None:
            self._projection = Linear(embedding, None)
            shares_memory = self._projection.shares(embedding)
            self.weight_bytes += 0 if shares_memory else self._projection.weight_bytes
        else:
            name = EMBEDDING if config.tie_word_embeddings else "lm_head.weight"
            self._projection = Linear(weights.read(name, *shape), None)
            self.weight_bytes += self._projection.weight_bytes

    def __call__(
        self,
        hidden: torch.Tensor,
        rows: torch.Tensor,
        kernels: Kernels,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if len(rows) == 0:  # a prompt's chunk that is not its last
            return hidden.new_empty(0, self._vocab_size, dtype=torch.float32)
        normed = kernels.rms_norm(hidden[rows], self._norm, self._eps)
        return self._projection.in_float32(normed, out)  # [num_sampled, vocab]


def _read_blocks(
    config: ModelConfig, weights: WeightSource, attention_layers: range, mlp_layers: range
) -> list[AttentionBlock | FeedForwardBlock]:
    """In the order in which hidden states go through them."""
    blocks: list[AttentionBlock | FeedForwardBlock] = []
    for layer in sorted({*attention_layers, *mlp_layers}):
        if layer in attention_layers:
            blocks.append(AttentionBlock(config, weights, layer))
        if layer in mlp_layers:
            blocks.append(FeedForwardBlock(config, weights, layer))
    return blocks


def _check(hidden_or_token_ids: torch.Tensor, batch: Batch, kv: torch.Tensor) -> None:
    if hidden_or_token_ids.shape[0] != batch.num_tokens:
        raise InvariantError(
            f"the batch has {batch.num_tokens} tokens, its input has "
            f"{hidden_or_token_ids.shape[0]} rows"
        )
    lowest, highest = int(batch.host.block_tables.min()), int(batch.host.block_tables.max())
    if lowest < 0 or highest >= kv.shape[0] or batch.block_tokens != kv.shape[3]:
        raise InvariantError(
            f"block tables name slots {lowest} to {highest} of {batch.block_tokens} tokens, the "
            f"device tier has {kv.shape[0]} slots of {kv.shape[3]} tokens"
        )
