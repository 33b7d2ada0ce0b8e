"""The kernels of one step, by FlashInfer."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pipemax_worker.errors import InvariantError
from pipemax_worker.stage.model.cuda.library import FlashInfer
from pipemax_worker.stage.model.cuda.step_inputs import StepLayout
from pipemax_worker.stage.model.cuda.step_plan import PartShape
from pipemax_worker.stage.model.cuda.workspace import Workspace
from pipemax_worker.stage.model.experts import Experts
from pipemax_worker.stage.model.kernels import AttentionShape, QKNorm

NOT_CAUSAL, CAUSAL = 0, 1
TOKENS_BEFORE_HEADS = 0
"""FlashInfer's NHD layout."""

NO_WINDOW = -1


class FlashInferKernels:
    """Implements :class:`~pipemax_worker.stage.model.kernels.Kernels` for steps of one layout."""

    def __init__(
        self,
        library: FlashInfer,
        layout: StepLayout,
        workspace: Workspace,
        angles: torch.Tensor,
    ) -> None:
        """``angles``: cosines and sines of every position, [positions, head_dim] float32."""
        self._library, self._workspace, self._layout = library, workspace, layout
        self._angles = angles
        num_rows = layout.shape.num_rows
        self.token_ids = self._words("token_ids")
        self.fed_back = self._words("fed_back")
        self.source_rows = self._words("source_rows")
        self.sample_rows = self._words("sample_rows")
        self._positions = self._words("positions")
        self._slots, self._offsets = self._words("slots"), self._words("offsets")
        self._append_to = (workspace.row_numbers[:num_rows], self._offsets)
        self._append_tables = (
            self._slots,
            workspace.row_numbers[: num_rows + 1],
            workspace.ones[:num_rows],
        )
        pages = workspace.words[layout["pages"].start :]
        self._decode, self._prompts = (
            _PartTables(self._words, layout, name, pages, workspace) if part.num_rows else None
            for name, part in (("decode", layout.shape.decode), ("prompts", layout.shape.prompts))
        )

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        out = torch.empty_like(x)
        self._library.rms_norm(out, x, weight, eps, True)
        return out

    def rotate_and_append(
        self, qkv: torch.Tensor, qk_norm: QKNorm | None, kv: torch.Tensor, shape: AttentionShape
    ) -> None:
        if self._library.rotate_and_append is not None:
            where = (self._angles, self._positions, self._slots, self._offsets)
            self._library.rotate_and_append(qkv, qk_norm, kv, shape, *where)
            return
        heads = qkv.view(qkv.shape[0], -1, shape.head_dim)
        sizes = [shape.num_heads, shape.num_kv_heads, shape.num_kv_heads]
        queries, keys, values = torch.split_with_sizes(heads, sizes, dim=1)
        if qk_norm is not None:
            self._library.rms_norm(queries, queries, qk_norm.query, qk_norm.eps, True)
            self._library.rms_norm(keys, keys, qk_norm.key, qk_norm.eps, True)
        self._library.rotate(queries, keys, queries, keys, self._angles, self._positions, False)
        if kv.dtype != qkv.dtype:
            keys, values = _to_kv_dtype(keys, kv.dtype), _to_kv_dtype(values, kv.dtype)
        key_blocks, value_blocks = kv.unbind(1)
        self._library.append(
            keys, values, *self._append_to, key_blocks, value_blocks, *self._append_tables,
            TOKENS_BEFORE_HEADS,
        )  # fmt: skip

    def attention(self, qkv: torch.Tensor, kv: torch.Tensor, shape: AttentionShape) -> torch.Tensor:
        heads = qkv.view(qkv.shape[0], -1, shape.head_dim)
        out = qkv.new_empty(qkv.shape[0], shape.num_heads, shape.head_dim)
        with self._workspace.branch.beside(self._prompts is not None and self._decode is not None):
            if self._prompts is not None:  # few thread blocks, long ones: they start first
                self._attend(self._prompts, heads, kv, out, shape)
        if self._decode is not None:
            self._attend(self._decode, heads, kv, out, shape)
        self._workspace.branch.join()
        return out.view(qkv.shape[0], shape.num_query_columns)

    def _attend(
        self,
        part: _PartTables,
        heads: torch.Tensor,
        kv: torch.Tensor,
        out: torch.Tensor,
        shape: AttentionShape,
    ) -> None:
        key_blocks, value_blocks = kv.unbind(1)
        self._library.paged_attention(
            *(part.partial_results, self._workspace.words, part.plan),
            *(heads[part.rows, : shape.num_heads], key_blocks, value_blocks),
            *part.tables,
            *(out[part.rows], None, part.mask, TOKENS_BEFORE_HEADS, NO_WINDOW, True),
            *(None, None, None, None, None, None, None, None),  # masks, biases, scales
            *(0.0, shape.scale, 1.0, 1.0, 0),  # no soft cap, no position encoding
        )

    def silu_and_multiply(self, gate_up: torch.Tensor) -> torch.Tensor:
        out = gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)
        self._library.silu_and_multiply(out, gate_up, True)
        return out

    def mix_experts(
        self, x: torch.Tensor, experts: Experts, residual: torch.Tensor
    ) -> torch.Tensor:
        if self._library.mix_experts is None:
            raise InvariantError("these kernels do not compute experts, and were chosen for them")
        mixed = self._library.mix_experts(x, experts, residual)
        assert isinstance(mixed, torch.Tensor)
        return mixed

    def _words(self, name: str) -> torch.Tensor:
        return self._workspace.words[self._layout[name].slice]


class _PartTables:
    """What the attention kernel is told of the decoding rows, or of the prompts' rows."""

    def __init__(
        self,
        words: Callable[[str], torch.Tensor],
        layout: StepLayout,
        name: str,
        pages: torch.Tensor,
        workspace: Workspace,
    ) -> None:
        is_decode = name == "decode"
        shape: PartShape = layout.shape.decode if is_decode else layout.shape.prompts
        first_row = 0 if is_decode else layout.shape.prompts_start or 0
        self.rows = slice(first_row, first_row + shape.num_rows)
        self.mask = NOT_CAUSAL if is_decode else CAUSAL
        self.plan = layout.attention_plan(name, workspace.scores_offset_bytes)
        self.partial_results = workspace.partial_results[0 if is_decode else 1]
        self.tables = (
            words(f"{name}.query_starts"),
            words(f"{name}.page_starts"),
            pages,
            words(f"{name}.last_page_tokens"),
        )


def _to_kv_dtype(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """fp8 saturates: PyTorch's own conversion would make a large value NaN."""
    if dtype == torch.float8_e4m3fn:
        largest = torch.finfo(dtype).max
        x = x.clamp(-largest, largest)
    return x.to(dtype)
