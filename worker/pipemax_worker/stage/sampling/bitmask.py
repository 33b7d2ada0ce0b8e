"""Packed token masks applied to logits: all rows at once, on the logits' device."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from pipemax_worker.stage.sampling.matcher import TokenMask


def apply_masks(logits: torch.Tensor, masks: Mapping[int, TokenMask]) -> torch.Tensor:
    """``logits`` [num_rows, vocab_size] with minus infinity where the mask of a row, by its
    number, does not allow a token. The argument is left alone."""
    if not masks:
        return logits
    allowed = _unpack(masks, logits.shape[1], logits.device)
    if len(masks) == logits.shape[0]:
        return logits.masked_fill(~allowed, -torch.inf)
    rows = torch.tensor(list(masks), device=logits.device)
    masked = logits.clone()
    masked[rows] = logits[rows].masked_fill_(~allowed, -torch.inf)
    return masked


def _unpack(masks: Mapping[int, TokenMask], vocab_size: int, device: torch.device) -> torch.Tensor:
    """[num_masks, vocab_size] bool, in the order of ``masks``."""
    words = np.stack([mask.words for mask in masks.values()])
    packed = torch.from_numpy(words.view(np.uint8)).to(device)  # [num_masks, num_bytes]
    shifts = torch.arange(8, dtype=torch.uint8, device=device)
    bits = (packed[:, :, None] >> shifts) & 1  # [num_masks, num_bytes, 8]
    return bits.flatten(1)[:, :vocab_size].bool()
