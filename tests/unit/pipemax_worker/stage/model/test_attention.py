"""Attention and what surrounds it: PyTorch's path against plain formulas, the C kernels against
PyTorch's path."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pipemax_worker.contract.messages import ScheduledRequest
from pipemax_worker.contract.transfers import pack_int32
from pipemax_worker.stage.batch import Batch, build_batch
from pipemax_worker.stage.model import attention
from pipemax_worker.stage.model.kernels import AttentionShape, Kernels, QKNorm
from pipemax_worker.stage.model.native.kernels import NativeBackend
from pipemax_worker.stage.model.native.library import load_library
from pipemax_worker.stage.model.torch_kernels import TorchKernels

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """``requests``: (computed tokens, new tokens) each."""

    requests: tuple[tuple[int, int], ...]
    num_kv_heads: int = 2
    group: int = 3
    head_dim: int = 16
    block_tokens: int = 4
    window: int | None = None
    kv_dtype: torch.dtype = torch.float32
    num_threads: int = 1
    seed: int = 0

    @property
    def shape(self) -> AttentionShape:
        return AttentionShape(
            self.num_kv_heads * self.group, self.num_kv_heads, self.head_dim, self.window
        )

    def batch(self) -> Batch:
        blocks = [-(-(done + new) // self.block_tokens) for done, new in self.requests]
        order = torch.randperm(sum(blocks), generator=torch.Generator().manual_seed(self.seed))
        slots = iter(order.tolist())
        scheduled = [
            ScheduledRequest(
                i, done, new, None, pack_int32(itertools.islice(slots, blocks[i])), True
            )
            for i, (done, new) in enumerate(self.requests)
        ]
        return build_batch(scheduled, self.block_tokens, CPU)

    def inputs(self) -> tuple[Batch, torch.Tensor, torch.Tensor]:
        """Batch, qkv and a KV layer full of numbers; the layer is a slice of a larger pool."""
        batch, shape = self.batch(), self.shape
        random = torch.Generator().manual_seed(self.seed)
        width = shape.num_query_columns + 2 * shape.num_kv_columns
        qkv = torch.randn(batch.num_tokens, width, generator=random)
        size = (
            len(batch.indices.block_tables),
            3,
            2,
            self.block_tokens,
            self.num_kv_heads,
            self.head_dim,
        )
        pool = torch.randn(size, generator=random).to(self.kv_dtype)
        return batch, qkv, pool[:, 1]

    def angles(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        random = torch.Generator().manual_seed(self.seed)
        angles = torch.rand(batch.num_tokens, self.head_dim // 2, generator=random) * 6.28
        return angles.cos(), angles.sin()

    def native(self, batch: Batch) -> Kernels:
        library = load_library()
        assert library is not None, "the tests need a C compiler"
        backend = NativeBackend(library, self.shape.num_heads, self.head_dim)
        torch.set_num_threads(self.num_threads)
        kernels = backend.begin(batch, *self.angles(batch))
        torch.set_num_threads(1)
        return kernels


def plain_attention(case: Case, batch: Batch, qkv: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
    """Query by query, head by head, position by position."""
    shape, rows = case.shape, []
    queries = qkv[:, : shape.num_query_columns].view(-1, shape.num_heads, shape.head_dim)
    for request, (done, new) in enumerate(case.requests):
        start = int(batch.indices.table_starts[request])
        for index in range(new):
            query = queries[int(batch.indices.query_starts[request]) + index]
            last = done + index
            first = 0 if case.window is None else max(0, last - case.window + 1)
            seen = [
                kv[
                    batch.indices.block_tables[start + p // case.block_tokens],
                    :,
                    p % case.block_tokens,
                ]
                for p in range(first, last + 1)
            ]
            keys, values = torch.stack(seen).float().unbind(1)  # [seen, num_kv_heads, head_dim]
            heads = []
            for head in range(shape.num_heads):
                own = head // case.group
                scores = keys[:, own] @ query[head] / math.sqrt(shape.head_dim)
                heads.append(torch.softmax(scores, 0) @ values[:, own])
            rows.append(torch.cat(heads))
    return torch.stack(rows)


CASES = [
    Case(((0, 1),)),
    Case(((0, 5), (9, 1), (3, 2), (0, 1), (17, 1))),
    Case(((6, 7), (30, 1)), window=5),
    Case(((2, 3),), group=1, head_dim=8),
]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_torch_attention_equals_the_formula(case: Case) -> None:
    batch, qkv, kv = case.inputs()
    out = TorchKernels(batch, *case.angles(batch)).attention(qkv, kv, case.shape)
    torch.testing.assert_close(out, plain_attention(case, batch, qkv, kv), atol=1e-5, rtol=0)


def test_large_batches_are_gathered_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most so many padded tokens at once, and the result is the same."""
    case = Case(((20, 1), (3, 1), (9, 1), (0, 4), (15, 1)))
    batch, qkv, kv = case.inputs()
    expected = TorchKernels(batch, *case.angles(batch)).attention(qkv, kv, case.shape)
    monkeypatch.setattr(attention, "MAX_GATHERED_TOKENS", 32)
    groups = attention.plan_groups(batch)
    assert [tuple(group.positions.shape) for group in groups] == [
        (1, 4),
        (1, 1),
        (2, 1),
        (1, 1),
    ]
    out = TorchKernels(batch, *case.angles(batch)).attention(qkv, kv, case.shape)
    torch.testing.assert_close(out, expected)


def test_fp8_append_saturates() -> None:
    case = Case(((0, 1),), kv_dtype=torch.float8_e4m3fn, group=1, num_kv_heads=1)
    batch, _, kv = case.inputs()
    large = torch.full((1, 1, 16), 1e6)
    attention.append(kv, batch, large, -large)
    assert kv[0, 0, 0].float().unique().tolist() == [448.0]
    assert kv[0, 1, 0].float().unique().tolist() == [-448.0]


requests = st.lists(
    st.tuples(st.integers(0, 700), st.one_of(st.just(1), st.integers(1, 90))),
    min_size=1,
    max_size=9,
)
cases = st.builds(
    Case,
    requests=requests.map(tuple),
    num_kv_heads=st.integers(1, 3),
    group=st.sampled_from([1, 2, 3, 8, 40]),
    head_dim=st.sampled_from([4, 12, 16, 48, 64, 128]),
    block_tokens=st.sampled_from([1, 3, 4, 16, 24, 32]),
    window=st.one_of(st.none(), st.integers(1, 300)),
    kv_dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    num_threads=st.sampled_from([1, 2]),
    seed=st.integers(0, 5),
)


@settings(max_examples=60, deadline=None)
@given(cases)
def test_c_attention_equals_torch(case: Case) -> None:
    """Any mix of decoding requests and chunks, any heads, blocks and window."""
    batch, qkv, kv = case.inputs()
    expected = TorchKernels(batch, *case.angles(batch)).attention(qkv, kv, case.shape)
    out = case.native(batch).attention(qkv, kv, case.shape)
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=0)


def test_c_attention_reads_nothing_beyond_the_context() -> None:
    case = Case(((13, 1), (5, 6)), block_tokens=8)
    batch, qkv, kv = case.inputs()
    expected = case.native(batch).attention(qkv, kv, case.shape)
    for request, (done, new) in enumerate(case.requests):
        table = batch.host.block_tables[batch.host.table_starts[request] :]
        for position in range(done + new, -(-(done + new) // 8) * 8):
            kv[table[position // 8], :, position % 8] = torch.nan
    assert torch.equal(case.native(batch).attention(qkv, kv, case.shape), expected)


def test_extreme_scores_stay_finite() -> None:
    """Scores far apart and far from 0: one key gets everything, nothing overflows."""
    case = Case(((40, 1), (0, 30)))
    batch, qkv, kv = case.inputs()
    expected = TorchKernels(batch, *case.angles(batch)).attention(qkv * 1e3, kv, case.shape)
    out = case.native(batch).attention(qkv * 1e3, kv, case.shape)
    torch.testing.assert_close(out, expected, atol=1e-3, rtol=0)


@settings(max_examples=20, deadline=None)
@given(cases, st.booleans())
def test_c_rotation_and_append_equal_torch(case: Case, has_qk_norm: bool) -> None:
    batch, qkv, kv = case.inputs()
    norm = QKNorm(torch.randn(case.head_dim), torch.randn(case.head_dim), 1e-5)
    results = []
    for kernels in (TorchKernels(batch, *case.angles(batch)), case.native(batch)):
        own_qkv, own_kv = qkv.clone(), kv.clone()
        kernels.rotate_and_append(own_qkv, norm if has_qk_norm else None, own_kv, case.shape)
        results.append((own_qkv, own_kv.float()))
    torch.testing.assert_close(results[1][0], results[0][0], atol=1e-5, rtol=0)
    tolerance = 1e-5 if case.kv_dtype == torch.float32 else 4e-2
    torch.testing.assert_close(results[1][1], results[0][1], atol=tolerance, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (3, 16), (9, 40), (5, 577)])
def test_c_norm_and_activation_equal_torch(size: Sequence[int]) -> None:
    case = Case(((0, 1),))
    batch, _, _ = case.inputs()
    torch_kernels, native = TorchKernels(batch, *case.angles(batch)), case.native(batch)
    rows, width = size
    x = torch.randn(rows, 2 * width) * 4
    x[0, 0] = -120.0  # silu underflows to zero there
    weight = torch.randn(2 * width)
    torch.testing.assert_close(
        native.rms_norm(x, weight, 1e-6), torch_kernels.rms_norm(x, weight, 1e-6)
    )
    torch.testing.assert_close(native.silu_and_multiply(x), torch_kernels.silu_and_multiply(x))
