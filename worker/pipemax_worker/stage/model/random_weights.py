"""Random weights in place of a checkpoint's: to measure any model's shape without its files."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch

BIAS_DEVIATION = 0.02


class RandomWeights:
    """Every tensor that is asked for, made on the device; a function of its name and ``seed``.

    A tensor does not depend on which stage asks for it, nor on what was asked for before, so one
    seed is one model however it is cut. Matrices keep the variance of what goes through them,
    so activations stay in the range of real models: a GPU's speed depends on its operands' bits.
    """

    def __init__(self, seed: int, device: torch.device, dtype: torch.dtype) -> None:
        self._seed = seed
        self._device = device
        self._dtype = dtype

    def has(self, name: str) -> bool:
        """Never: of several spellings, each expert's own tensors are made."""
        return False

    def read(self, name: str, *shape: int) -> torch.Tensor:
        """One tensor, in memory of its own."""
        return self._fill(torch.empty(shape, dtype=self._dtype, device=self._device), name)

    def read_stacked(self, rows: Mapping[str, int], *columns: int) -> torch.Tensor:
        """Several tensors, one below the other: ``{name: number of rows}`` -> [all rows, *columns].

        Each is what :meth:`read` makes of its name.
        """
        shape = (sum(rows.values()), *columns)
        target = torch.empty(shape, dtype=self._dtype, device=self._device)
        parts = torch.split_with_sizes(target, list(rows.values()))
        for name, part in zip(rows, parts, strict=True):
            self._fill(part, name)
        return target

    def _fill(self, target: torch.Tensor, name: str) -> torch.Tensor:
        if name.endswith("norm.weight"):
            return target.fill_(1.0)
        deviation = BIAS_DEVIATION if target.dim() == 1 else float(target.shape[-1]) ** -0.5
        generator = torch.Generator(self._device)
        generator.manual_seed(zlib.crc32(name.encode(), self._seed & 0xFFFFFFFF))
        return target.normal_(0.0, deviation, generator=generator)
