"""Packed and plain matrices give the same products."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pipemax_worker.stage.model import linear
from pipemax_worker.stage.model.linear import Linear


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("has_residual", [True, False])
@pytest.mark.parametrize("rows", [1, 5, 64, 130])
def test_product(
    is_packed: bool, has_bias: bool, has_residual: bool, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "_can_pack", lambda weight: is_packed)
    weight, bias = torch.randn(24, 40), torch.randn(24) if has_bias else None
    x, residual = torch.randn(rows, 40), torch.randn(rows, 24) if has_residual else None
    expected = F.linear(x, weight, bias) + (residual if residual is not None else 0.0)
    with torch.inference_mode():
        result = Linear(weight, bias)(x, residual)
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)


def test_the_residual_is_left_alone_on_a_cpu() -> None:
    residual = torch.randn(3, 8)
    before = residual.clone()
    with torch.inference_mode():
        Linear(torch.randn(8, 8), None)(torch.randn(3, 8), residual)
    assert torch.equal(residual, before)


def test_a_row_does_not_depend_on_the_others() -> None:
    """So greedy texts do not depend on the batch, where sums are concerned."""
    matrix, x = Linear(torch.randn(96, 576), None), torch.randn(70, 576)
    with torch.inference_mode():
        whole = matrix(x)
        assert all(torch.equal(matrix(x[:n].contiguous()), whole[:n]) for n in (1, 2, 7, 33))


def test_bytes_count_weight_and_bias() -> None:
    assert Linear(torch.zeros(8, 4), torch.zeros(8)).weight_bytes == 8 * 4 * 4 + 8 * 4
    assert Linear(torch.zeros(8, 4, dtype=torch.bfloat16), None).weight_bytes == 64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_in_float32(dtype: torch.dtype) -> None:
    weight, x = torch.randn(24, 40).to(dtype), torch.randn(3, 40).to(dtype)
    with torch.inference_mode():
        result = Linear(weight, None).in_float32(x)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, x.float() @ weight.float().T, atol=0.1, rtol=0)
