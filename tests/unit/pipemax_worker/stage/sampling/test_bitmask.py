"""Packed masks on logits, against the plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kit.devices import DEVICES
from pipemax_worker.stage.sampling.bitmask import apply_masks
from pipemax_worker.stage.sampling.matcher import TokenMask, pack_bits


def random_mask(vocab_size: int, seed: int) -> tuple[TokenMask, list[int]]:
    generator = np.random.default_rng(seed)
    allowed = np.flatnonzero(generator.random(vocab_size) < generator.random()).tolist()
    return TokenMask(pack_bits(allowed, vocab_size), len(allowed)), allowed


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("vocab_size", [1, 31, 32, 33, 100, 513])
def test_only_allowed_tokens_keep_their_logits(vocab_size: int, device: torch.device) -> None:
    logits = torch.randn(6, vocab_size, device=device)
    before = logits.clone()
    found = {row: random_mask(vocab_size, vocab_size + row) for row in (0, 2, 3, 5)}
    masked = apply_masks(logits, {row: mask for row, (mask, _) in found.items()})
    for row in range(6):
        allowed = found[row][1] if row in found else range(vocab_size)
        expected = [
            float(before[row, token]) if token in set(allowed) else -torch.inf
            for token in range(vocab_size)
        ]
        assert masked[row].tolist() == expected
    assert torch.equal(logits, before), "the raw logits are still needed"


def test_all_rows_masked() -> None:
    masks = {row: random_mask(70, row) for row in range(3)}
    masked = apply_masks(torch.zeros(3, 70), {row: mask for row, (mask, _) in masks.items()})
    for row, (_, allowed) in masks.items():
        assert masked[row].isfinite().nonzero()[:, 0].tolist() == allowed


def test_without_masks_nothing_is_copied() -> None:
    logits = torch.zeros(2, 5)
    assert apply_masks(logits, {}) is logits
