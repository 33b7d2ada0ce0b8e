"""Triton's kernels by Triton's own interpreter on the CPU, against PyTorch's. A program of its own,
since Triton decides when it is loaded whether it interprets:

    TRITON_INTERPRET=1 python -m kit.interpreted_kernels
"""

from __future__ import annotations

import numpy as np
import torch
from pipemax_worker.contract.messages import ScheduledRequest
from pipemax_worker.contract.transfers import pack_int32
from pipemax_worker.stage.batch import Batch, build_batch
from pipemax_worker.stage.model.cuda.fused_activation import silu_and_multiply
from pipemax_worker.stage.model.cuda.fused_append import rotate_and_append
from pipemax_worker.stage.model.cuda.row_gather import gather_rows
from pipemax_worker.stage.model.cuda.word_copy import copy_words
from pipemax_worker.stage.model.kernels import AttentionShape, QKNorm
from pipemax_worker.stage.model.torch_kernels import TorchKernels

BLOCK_TOKENS = 4
EPS = 1e-6
SHAPES = {
    "7B": AttentionShape(28, 4, 128, None),
    "smol": AttentionShape(9, 3, 64, None),
    "one head": AttentionShape(1, 1, 64, None),
}


def scheduled_batch() -> Batch:
    """A decoding request in the middle of a block, a prompt of several blocks, a continued one."""
    rows = [
        ScheduledRequest(0, 6, 1, None, pack_int32([3, 7]), True),
        ScheduledRequest(1, 0, 9, None, pack_int32([8, 1, 5]), True),
        ScheduledRequest(2, 3, 4, None, pack_int32([2, 0]), True),
    ]
    return build_batch(rows, BLOCK_TOKENS, torch.device("cpu"))


def int32(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.int32))


def check_rotate_and_append(shape: AttentionShape, has_norm: bool) -> None:
    batch = scheduled_batch()
    generator = torch.Generator().manual_seed(3)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator)

    qkv = random(batch.num_tokens, shape.num_query_columns + 2 * shape.num_kv_columns)
    # Of two layers the second; nine slots.
    pool = random(9, 2, 2, BLOCK_TOKENS, shape.num_kv_heads, shape.head_dim)
    norm = QKNorm(random(shape.head_dim), random(shape.head_dim), EPS) if has_norm else None
    angles = random(16, shape.head_dim)
    cos, sin = angles[batch.indices.positions].chunk(2, dim=-1)

    expected_qkv, expected_pool = qkv.clone(), pool.clone()
    TorchKernels(batch, cos, sin).rotate_and_append(expected_qkv, norm, expected_pool[:, 1], shape)
    host = batch.host
    where = (int32(host.positions), int32(host.slots), int32(host.offsets))
    rotate_and_append(qkv, norm, pool[:, 1], shape, angles, *where)
    queries = slice(0, shape.num_query_columns)
    torch.testing.assert_close(qkv[:, queries], expected_qkv[:, queries])
    torch.testing.assert_close(pool, expected_pool)


def check_silu_and_multiply() -> None:
    """Of a width that programs do not divide."""
    gate_up = 4 * torch.randn(3, 2 * 1500, generator=torch.Generator().manual_seed(1))
    out = torch.full((3, 1500), torch.nan)
    silu_and_multiply(out, gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    torch.testing.assert_close(out, torch.nn.functional.silu(gate) * up)


def check_copy_words() -> None:
    """So many words and no more."""
    source = torch.arange(5000, dtype=torch.int32)
    target = torch.full((5000,), -1, dtype=torch.int32)
    copy_words(target, source, 2500)
    assert torch.equal(target[:2500], source[:2500])
    assert (target[2500:] == -1).all()


def check_gather_rows(dtype: torch.dtype, width: int) -> None:
    """Bit-equal, of rows that programs do not divide, by ids of both kinds, some of them twice."""
    table = torch.randn(50, width, generator=torch.Generator().manual_seed(2)).to(dtype)
    ids = torch.tensor([49, 0, 7, 7, 31])
    for row_numbers in (ids, ids.to(torch.int32), ids[:1], ids[:0]):
        assert torch.equal(gather_rows(table, row_numbers), table[row_numbers.long()])


def main() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        check_gather_rows(dtype, 1300)
        check_gather_rows(dtype, 72)
        print(f"rows of {dtype}: as PyTorch")
    check_copy_words()
    print("words: as PyTorch")
    check_silu_and_multiply()
    print("activation: as PyTorch")
    for name, shape in SHAPES.items():
        for has_norm in (False, True):
            check_rotate_and_append(shape, has_norm)
            print(f"{name}, norm {has_norm}: as PyTorch")


if __name__ == "__main__":
    main()
