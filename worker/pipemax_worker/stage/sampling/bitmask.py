"""Packed token masks applied to logits: all rows at once, on the logits' device."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import torch

from pipemax_worker.stage.sampling.matcher import TokenMask


def apply_masks(logits: torch.Tensor, masks: Mapping[int, TokenMask]) -> torch.Tensor:
    """``logits`` [num_rows, vocab_size] with minus infinity where the mask of a row, by its
    number, does not allow a token. The argument is left alone."""
    if not masks:
        return logits
    packed = np.stack([mask.words for mask in masks.values()]).view(np.uint8)
    bias = unpack_bias(torch.from_numpy(packed).to(logits.device), logits.shape[1])
    if len(masks) == logits.shape[0]:
        return logits + bias
    masked = logits.clone()
    masked[torch.tensor(list(masks), device=logits.device)] += bias
    return masked


def unpack_bias(packed: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """[num_masks, num_bytes] uint8 -> [num_masks, vocab_size] float32: 0 or minus infinity.

    Looked up byte by byte and added: on a CPU, 20 us a row of 49,152 in place of 190 for
    ``masked_fill`` or ``where``; only packed bits cross the link to a GPU.
    """
    rows = _bias_of_byte(packed.device).index_select(0, packed.flatten().int())
    return rows.view(packed.shape[0], -1)[:, :vocab_size]


@functools.cache
def _bias_of_byte(device: torch.device) -> torch.Tensor:
    """[256, 8] float32: what each bit of a byte adds to its token's logit, lowest bit first."""
    bits = (torch.arange(256)[:, None] >> torch.arange(8)) & 1
    return torch.where(bits.bool(), 0.0, -torch.inf).to(device)
