"""What one call tells the CUDA runtime, by a stand-in that reads it as the runtime would."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kit.kv_tiers import copy_job
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.errors import KVTierError
from pipemax_worker.stage.kv.copy_batch import (
    BatchedCopies,
    CopyBatch,
    _cuda_version,
    load_batched_copies,
)
from pipemax_worker.stage.kv.cuda_copier import batch_of

STREAM = 77
ROW_BYTES = 64


class Runtime:
    """``libcudart``: copies at once what is asked for, by the layout of CUDA's headers."""

    def __init__(self, status: int = 0, has_failed_index: bool = False) -> None:
        self.status, self.has_failed_index = status, has_failed_index
        self.num_calls = self.num_errors_taken = 0

    def cudaMemcpyBatchAsync(self, *arguments: Any) -> int:
        self.num_calls += 1
        assert len(arguments) == 8 + self.has_failed_index
        targets, sources, sizes, count = arguments[:4]
        assert arguments[-1].value == STREAM
        self._check_attributes(*arguments[4:7])
        if self.status:
            return self.status
        columns = [
            (ctypes.c_uint64 * count.value).from_address(column.value)
            for column in (targets, sources, sizes)
        ]
        for target, source, size in zip(*columns, strict=True):
            ctypes.memmove(target, source, size)
        return 0

    def cudaGetLastError(self) -> int:
        self.num_errors_taken += 1
        return self.status

    @staticmethod
    def _check_attributes(attributes: Any, first: Any, number: Any) -> None:
        assert ctypes.sizeof(attributes._obj) == 24
        words = (ctypes.c_int * 6).from_buffer_copy(attributes._obj)
        assert list(words) == [1, 0, 0, 0, 0, 0]  # in stream order, nothing else
        assert (first._obj.value, number.value) == (0, 1)


def rows(num_rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_rows, ROW_BYTES), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("cuda", [(12, 8), (12, 9), (13, 0), (13, 2)])
@pytest.mark.parametrize(
    ("sources", "targets"),
    [([], []), ([3], [0]), ([0, 1, 2, 3], [4, 5, 6, 7]), ([5, 1, 2, 9, 8], [0, 9, 8, 3, 4])],
)
def test_named_rows_are_copied_and_no_others(
    cuda: tuple[int, int], sources: list[int], targets: list[int]
) -> None:
    source, target = rows(10, seed=1), rows(10, seed=2)
    expected = target.clone()
    expected[targets] = source[sources]
    runtime = Runtime(has_failed_index=cuda < (13, 0))
    job = copy_job(0, Tier.HOST, Tier.DEVICE, sources, targets)
    assert BatchedCopies(runtime, cuda).issue(batch_of(job, source, target, 4), STREAM)
    assert torch.equal(target, expected)
    assert runtime.num_calls == bool(sources)


@given(st.permutations(range(12)), st.permutations(range(12)), st.integers(1, 5))
def test_no_copy_crosses_the_end_of_pinned_memory(
    sources: list[int], targets: list[int], chunk_slots: int
) -> None:
    source, target = rows(12, seed=1), rows(12, seed=2)
    job = copy_job(0, Tier.DEVICE, Tier.HOST, sources, targets)
    batch = batch_of(job, source, target, chunk_slots)
    for starts, base in ((batch.sources, source), (batch.targets, target)):
        first = (starts - np.uint64(base.data_ptr())) // np.uint64(ROW_BYTES)
        last = first + batch.sizes // np.uint64(ROW_BYTES) - np.uint64(1)
        assert (first // np.uint64(chunk_slots) == last // np.uint64(chunk_slots)).all()
    assert batch.sizes.sum() == 12 * ROW_BYTES


@given(st.integers(0, 9), st.integers(1, 4))
def test_every_copy_is_in_one_part(num_copies: int, num_parts: int) -> None:
    columns = [np.arange(num_copies, dtype=np.uint64) + np.uint64(10 * n) for n in range(3)]
    parts = CopyBatch(*columns).split(num_parts)
    assert 1 <= len(parts) <= num_parts
    for whole, name in zip(columns, ("sources", "targets", "sizes"), strict=True):
        column = np.concatenate([getattr(part, name) for part in parts])
        assert sorted(column.tolist()) == whole.tolist()
    assert all(len(part.sizes) for part in parts) or num_copies == 0


def one_copy() -> CopyBatch:
    return CopyBatch(*(np.array([value], np.uint64) for value in (1, 2, 3)))


@pytest.mark.parametrize("status", [36, 801])
def test_a_driver_without_it(status: int, caplog: pytest.LogCaptureFixture) -> None:
    runtime = Runtime(status)
    assert not BatchedCopies(runtime, (13, 0)).issue(one_copy(), STREAM)
    assert runtime.num_errors_taken == 1
    assert "single copies are used" in caplog.text


def test_an_error_is_raised() -> None:
    runtime = Runtime(700)
    with pytest.raises(KVTierError, match="1 runs of KV failed with CUDA error 700"):
        BatchedCopies(runtime, (13, 0)).issue(one_copy(), STREAM)
    assert runtime.num_errors_taken == 1


@pytest.mark.parametrize("text", [None, "11.8", "12.6"])
def test_older_runtimes_do_not_have_it(text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", text)
    assert load_batched_copies.__wrapped__() is None


def test_a_runtime_that_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "99.0")
    assert load_batched_copies.__wrapped__() is None
    assert "KV is copied run by run (slower)" in caplog.text


def test_versions() -> None:
    assert _cuda_version("12.8") == (12, 8)
    assert _cuda_version("13.0.1") == (13, 0)
    assert _cuda_version(None) == (0, 0)
