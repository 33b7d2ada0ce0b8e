"""Matrix times activations, in the form that is fastest on the device.

On CPUs the weights are packed once for oneDNN. For SmolLM2's shapes on two Zen 4 cores (float32)
that took 21 / 27 / 77 / 141 ms a step at 8 / 16 / 64 / 128 tokens where ``F.linear`` took 56 / 67 /
138 / 234 and MKL's packed weights 69 / 80 / 153 / 249: MKL repacks a row-major matrix at every
call, oneDNN packs it here. There is no choice at run time: the result of a job must not depend on
which library happened to be faster.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from pipemax_worker.stage.model.checkpoint import WeightSource

HALF_DTYPES = (torch.bfloat16, torch.float16)

PACKING_ROWS = 64
"""The row count oneDNN is asked to lay the weights out for; other counts run with the same layout
(measured from 1 to 300 rows) and give the same sums for a row, whatever the number of rows."""


class Linear:
    """``y = x W^T + b``, optionally plus a residual, with the weight kept in the device's form."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight_bytes = weight.nbytes + (0 if bias is None else bias.nbytes)
        self._bias = bias
        self._is_packed = _can_pack(weight)
        self.shape = weight.shape
        self.dtype = weight.dtype
        self._weight = _pack(weight) if self._is_packed else weight  # [out, in]
        self._library_for: Callable[[int], str] | None = None

    @property
    def is_packed(self) -> bool:
        """Whether the weight lies there in a form of the CPU library's own."""
        return self._is_packed

    def shares(self, weight: torch.Tensor) -> bool:
        """Whether this matrix lies in the memory of ``weight``."""
        return self._weight is weight

    def choose_library_by(self, library_for: Callable[[int], str]) -> None:
        """On a GPU: which of PyTorch's libraries computes a product of so many rows."""
        self._library_for = library_for

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """``x`` [num_tokens, in], ``residual`` [num_tokens, out] -> [num_tokens, out]. The residual
        may be written to."""
        if self._is_packed:
            return self._packed(x, residual)
        if self._library_for is not None:
            torch.backends.cuda.preferred_blas_library(self._library_for(len(x)))
        if residual is not None and self._bias is None and x.is_cuda:
            return residual.addmm_(x, self._weight.t())  # one launch, and one rounding less
        y = F.linear(x, self._weight, self._bias)
        return y if residual is None else y.add_(residual)

    def in_float32(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """The same without a residual, [num_tokens, out] float32, of any compute dtype; in ``out``
        if it is given."""
        if x.is_cuda and self._bias is None and x.dtype in HALF_DTYPES:
            torch.backends.cuda.preferred_blas_library("default")
            # The sums are not rounded to the compute dtype.
            return torch.mm(x, self._weight.t(), out_dtype=torch.float32, out=out)
        y = self(x).float()
        return y if out is None else out.copy_(y)

    def _packed(self, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        operators = torch.ops.mkldnn
        if residual is None:
            y = operators._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        else:
            y = operators._linear_pointwise.binary(x, residual, self._weight, self._bias, "add")
        assert isinstance(y, torch.Tensor)
        return y


def read_linear(
    weights: WeightSource, rows: dict[str, int], columns: int, has_bias: bool
) -> Linear:
    """One matrix made of the named projections, one below the other."""
    weight = weights.read_stacked({name + ".weight": n for name, n in rows.items()}, columns)
    bias = None
    if has_bias:
        bias = weights.read_stacked({name + ".bias": n for name, n in rows.items()})
    return Linear(weight, bias)


def _can_pack(weight: torch.Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def _pack(weight: torch.Tensor) -> torch.Tensor:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, PACKING_ROWS)
    assert isinstance(packed, torch.Tensor)
    return packed
