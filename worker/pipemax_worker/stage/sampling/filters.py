"""Temperature, top-k, top-p and min-p, and the draw from what they leave.

The filters keep the tokens that transformers' warpers keep, in its order, but touch the whole
vocabulary as few times as they can. Everything works on one row at a time, with shapes that depend
on that row alone: sums are then rounded alike whatever else is in the batch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from pipemax_worker.contract.request import SamplingParams

LOWEST_TEMPERATURE = 1e-30
"""Keeps the division finite; the best token has all the probability long before that."""

NUCLEUS_WIDTHS = (64, 1024)
"""How many of the best tokens are sorted, one after the other, in search of top-p's boundary,
before all of them are. A full sort of 49,152 logits takes milliseconds, 64 of them 0.1 ms."""


class Candidates(NamedTuple):
    """The tokens that may be drawn, by ascending id, and their logits over temperature, less the
    greatest of them (so that one is 0)."""

    token_ids: torch.Tensor  # [num_candidates] int64
    logits: torch.Tensor  # [num_candidates] float32


def filter_candidates(logits: torch.Tensor, params: SamplingParams) -> Candidates:
    """``logits`` [vocab_size], penalised -> what temperature, top-k, top-p and min-p leave."""
    scaled = (logits - logits.max()) / max(params.temperature, LOWEST_TEMPERATURE)
    kept = Candidates(torch.arange(len(scaled), device=scaled.device), scaled)
    if 0 < params.top_k < len(scaled):
        kept = _at_least(kept, torch.topk(scaled, params.top_k).values[-1])
    if params.top_p < 1.0:
        kept = _nucleus(kept, params.top_p)
    if params.min_p > 0.0:
        kept = _at_least(kept, math.log(params.min_p))
    return kept


def draw(candidates: Candidates, random_number: float) -> torch.Tensor:
    """The token at ``random_number`` (in [0, 1)) of the cumulative distribution, in order of ids:
    a 0-d int64 tensor on the candidates' device."""
    cumulative = torch.cumsum(candidates.logits.exp(), 0, dtype=torch.float64)
    index = torch.searchsorted(cumulative, random_number * cumulative[-1:], right=True)
    return candidates.token_ids[index.clamp_max_(len(cumulative) - 1)][0]


def _at_least(candidates: Candidates, threshold: torch.Tensor | float) -> Candidates:
    """Ties with the threshold stay, as in transformers."""
    chosen = (candidates.logits >= threshold).nonzero()[:, 0]
    return Candidates(candidates.token_ids[chosen], candidates.logits[chosen])


def _nucleus(candidates: Candidates, top_p: float) -> Candidates:
    """The best tokens until their probabilities reach ``top_p``; the one that crosses it stays
    (arXiv 1904.09751)."""
    size = len(candidates.logits)
    total = torch.cumsum(candidates.logits.exp(), 0, dtype=torch.float64)[-1]
    # On a GPU a full sort is cheap, and a look at each width's result would wait for the device.
    widths = NUCLEUS_WIDTHS if candidates.logits.device.type == "cpu" else ()
    for width in (*widths, size):
        best = torch.topk(candidates.logits, min(width, size))
        weights = best.values.exp().double()
        is_kept = torch.cumsum(weights, 0) - weights < top_p * total
        is_kept[0] = True
        if width >= size or not is_kept[-1]:
            break
    chosen = best.indices[is_kept].sort().values
    return Candidates(candidates.token_ids[chosen], candidates.logits[chosen])
