"""The kernels in C, called through ctypes (which releases the GIL) with raw pointers."""

from __future__ import annotations

import ctypes

import torch

from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.stage.batch import Batch
from pipemax_worker.stage.model.experts import Experts
from pipemax_worker.stage.model.kernels import AttentionShape, QKNorm
from pipemax_worker.stage.model.native.library import load_library
from pipemax_worker.stage.model.native.tiles import MAX_ROWS, build_tiles
from pipemax_worker.stage.model.torch_experts import mix_experts

MAX_HEAD_DIM = 256
KV_DTYPES = (torch.float32, torch.bfloat16)


class StepStruct(ctypes.Structure):
    """``step_t`` of step.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_tokens", "block_tokens", "num_threads")),
        ("num_tiles", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("slots", "offsets", "query_starts")),
        *((name, ctypes.c_void_p) for name in ("context_lens", "table_starts", "block_tables")),
        *((name, ctypes.c_void_p) for name in ("tiles", "cosines", "sines", "scratch")),
    )


class LayerStruct(ctypes.Structure):
    """``layer_t`` of step.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_heads", "num_kv_heads", "head_dim", "window")),
        *((name, ctypes.c_int64) for name in ("kv_is_bfloat16", "slot_stride", "value_stride")),
        ("token_stride", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("kv", "query_norm", "key_norm")),
        *((name, ctypes.c_float) for name in ("eps", "scale")),
    )


class NativeBackend:
    """The compiled library and the scratch space of its threads; one for each stage."""

    def __init__(self, library: ctypes.CDLL, num_heads: int, head_dim: int) -> None:
        self.library = library
        self._shape = LayerStruct(num_heads=num_heads, head_dim=head_dim)
        self._scratch = torch.empty(0, dtype=torch.uint8)
        _declare(library)

    @classmethod
    def create(
        cls, config: ModelConfig, device: torch.device, dtype: torch.dtype
    ) -> NativeBackend | None:
        """None where the C kernels do not apply: other devices and dtypes, odd head sizes, or no
        compiler (logged once)."""
        heads_per_kv_head = config.num_attention_heads // config.num_key_value_heads
        is_suitable = (
            device.type == "cpu"
            and dtype == torch.float32
            and config.head_dim % 4 == 0
            and config.head_dim <= MAX_HEAD_DIM
            and heads_per_kv_head <= MAX_ROWS
        )
        library = load_library() if is_suitable else None
        if library is None:
            return None
        return cls(library, config.num_attention_heads, config.head_dim)

    @staticmethod
    def supports(kv: torch.Tensor) -> bool:
        """Whether KV of this dtype can be read and written."""
        return kv.dtype in KV_DTYPES

    def begin(self, batch: Batch, cos: torch.Tensor, sin: torch.Tensor) -> NativeKernels:
        """``cos`` and ``sin`` [num_tokens, head_dim / 2] float32."""
        num_threads = torch.get_num_threads()
        return NativeKernels(
            self.library, batch, cos, sin, num_threads, self._scratch_for(num_threads)
        )

    def _scratch_for(self, num_threads: int) -> torch.Tensor:
        per_thread = self.library.pipemax_scratch_bytes(ctypes.byref(self._shape))
        if self._scratch.numel() < num_threads * per_thread:
            self._scratch = torch.empty(num_threads * per_thread, dtype=torch.uint8)
        return self._scratch


class NativeKernels:
    """Implements :class:`~pipemax_worker.stage.model.kernels.Kernels` for one step.

    Keeps a reference to every tensor whose address it has handed out.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        batch: Batch,
        cos: torch.Tensor,
        sin: torch.Tensor,
        num_threads: int,
        scratch: torch.Tensor,
    ) -> None:
        self._library = library
        self._batch = batch
        self._num_threads = num_threads
        self._tensors = (cos, sin, scratch)
        self._tiles_of: tuple[int, int] | None = None
        self._step = StepStruct(
            num_tokens=batch.num_tokens,
            block_tokens=batch.block_tokens,
            num_threads=num_threads,
            slots=batch.indices.slots.data_ptr(),
            offsets=batch.indices.offsets.data_ptr(),
            query_starts=batch.indices.query_starts.data_ptr(),
            context_lens=batch.indices.context_lens.data_ptr(),
            table_starts=batch.indices.table_starts.data_ptr(),
            block_tables=batch.indices.block_tables.data_ptr(),
            cosines=cos.data_ptr(),
            sines=sin.data_ptr(),
            scratch=scratch.data_ptr(),
        )

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        x = x.contiguous()
        out = torch.empty_like(x)
        rows, width = x.shape
        self._library.pipemax_rms_norm(
            out.data_ptr(), x.data_ptr(), weight.data_ptr(), eps, rows, width, self._num_threads
        )
        return out

    def rotate_and_append(
        self, qkv: torch.Tensor, qk_norm: QKNorm | None, kv: torch.Tensor, shape: AttentionShape
    ) -> None:
        layer = _layer_struct(kv, shape, qk_norm)
        self._library.pipemax_rotate_and_append(
            ctypes.byref(self._step), ctypes.byref(layer), qkv.data_ptr()
        )

    def attention(self, qkv: torch.Tensor, kv: torch.Tensor, shape: AttentionShape) -> torch.Tensor:
        self._lay_tiles(shape)
        out = torch.empty(qkv.shape[0], shape.num_query_columns)
        layer = _layer_struct(kv, shape, None)
        self._library.pipemax_attention(
            ctypes.byref(self._step), ctypes.byref(layer), qkv.data_ptr(), out.data_ptr()
        )
        return out

    def silu_and_multiply(self, gate_up: torch.Tensor) -> torch.Tensor:
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = torch.empty(rows, width)
        self._library.pipemax_silu_and_multiply(
            out.data_ptr(), gate_up.data_ptr(), rows, width, self._num_threads
        )
        return out

    def mix_experts(
        self, x: torch.Tensor, experts: Experts, residual: torch.Tensor
    ) -> torch.Tensor:
        return mix_experts(x, experts, residual, self.silu_and_multiply)

    def _lay_tiles(self, shape: AttentionShape) -> None:
        """All layers of a model have the same heads: the tiles are laid once a step."""
        heads = (shape.num_heads, shape.num_kv_heads)
        if self._tiles_of == heads:
            return
        tiles = build_tiles(self._batch.host, *heads, self._num_threads)
        self._tiles, self._tiles_of = tiles, heads
        self._step.num_tiles = len(tiles)
        self._step.tiles = tiles.ctypes.data


def _layer_struct(kv: torch.Tensor, shape: AttentionShape, qk_norm: QKNorm | None) -> LayerStruct:
    slot_stride, value_stride, token_stride, _, _ = kv.stride()
    return LayerStruct(
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        window=shape.window or 0,
        kv_is_bfloat16=int(kv.dtype == torch.bfloat16),
        slot_stride=slot_stride,
        value_stride=value_stride,
        token_stride=token_stride,
        kv=kv.data_ptr(),
        query_norm=None if qk_norm is None else qk_norm.query.data_ptr(),
        key_norm=None if qk_norm is None else qk_norm.key.data_ptr(),
        eps=0.0 if qk_norm is None else qk_norm.eps,
        scale=shape.scale,
    )


def _declare(library: ctypes.CDLL) -> None:
    pointer, integer, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
    library.pipemax_scratch_bytes.argtypes = (pointer,)
    library.pipemax_scratch_bytes.restype = integer
    for name, argument_types in {
        "pipemax_attention": (pointer, pointer, pointer, pointer),
        "pipemax_rotate_and_append": (pointer, pointer, pointer),
        "pipemax_rms_norm": (pointer, pointer, pointer, number, integer, integer, integer),
        "pipemax_silu_and_multiply": (pointer, pointer, integer, integer, integer),
    }.items():
        function = getattr(library, name)
        function.argtypes = argument_types
        function.restype = None
