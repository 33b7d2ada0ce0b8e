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

NUM_BINS = 512
BINS_PER_NAT = 16.0
"""The search for top-p's boundary sorts the tokens of one bin of logits. The bins reach 32 nats
below the best token; the last one takes all that lies deeper."""


class Candidates(NamedTuple):
    """The tokens that may be drawn, by ascending id, and their logits over temperature, less the
    greatest of them (so that one is 0)."""

    token_ids: torch.Tensor  # [num_candidates] int64
    logits: torch.Tensor  # [num_candidates] float32


def filter_candidates(
    logits: torch.Tensor, params: SamplingParams, is_sparse: bool = False
) -> Candidates:
    """``logits`` [vocab_size], penalised -> what temperature, top-k, top-p and min-p leave.

    Tokens whose logit is minus infinity are never drawn. ``is_sparse``: most are of that kind, and
    leaving them out first is cheaper.
    """
    scaled = (logits - logits.max()) / max(params.temperature, LOWEST_TEMPERATURE)
    kept = Candidates(torch.arange(len(scaled), device=scaled.device), scaled)
    if is_sparse:
        chosen = (scaled > -torch.inf).nonzero()[:, 0]
        kept = Candidates(chosen, scaled[chosen])
    if 0 < params.top_k < len(kept.logits):
        kept = _at_least(kept, torch.topk(kept.logits, params.top_k).values[-1])
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
    # Rounding may reach the total itself: then it is the last token that has a probability.
    last = torch.searchsorted(cumulative, cumulative[-1:])
    return candidates.token_ids[torch.minimum(index, last)][0]


def _at_least(candidates: Candidates, threshold: torch.Tensor | float) -> Candidates:
    """Ties with the threshold stay, as in transformers."""
    chosen = (candidates.logits >= threshold).nonzero()[:, 0]
    return Candidates(candidates.token_ids[chosen], candidates.logits[chosen])


def _nucleus(candidates: Candidates, top_p: float) -> Candidates:
    """The best tokens until their probabilities reach ``top_p``; the one that crosses it stays
    (arXiv 1904.09751)."""
    if candidates.logits.device.type == "cpu":
        is_kept = _nucleus_by_bins(candidates.logits, top_p)
    else:
        is_kept = _nucleus_by_sorting(candidates.logits, top_p, 0.0, None)
    chosen = is_kept.nonzero()[:, 0]
    return Candidates(candidates.token_ids[chosen], candidates.logits[chosen])


def _nucleus_by_bins(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Which are kept, [n] bool. A full sort of 49,152 logits takes milliseconds; adding up their
    probabilities in bins of similar logits shows which bin the boundary is in, and only that one is
    sorted."""
    bins = (logits * -BINS_PER_NAT).clamp_(max=NUM_BINS - 1).long()
    masses = torch.bincount(bins, weights=logits.exp().double(), minlength=NUM_BINS)
    cumulative = torch.cumsum(masses, 0)
    total = float(cumulative[-1])
    boundary = int(torch.searchsorted(cumulative, top_p * total))
    boundary = min(boundary, NUM_BINS - 1)
    members = (bins == boundary).nonzero()[:, 0]
    above = float(cumulative[boundary] - masses[boundary])
    is_kept = bins < boundary
    is_kept[members] = _nucleus_by_sorting(logits[members], top_p, above, total)
    return is_kept


def _nucleus_by_sorting(
    logits: torch.Tensor, top_p: float, above: float, total: float | None
) -> torch.Tensor:
    """Which are kept, [n] bool, where tokens of mass ``above`` come before these, of ``total``."""
    ordered = logits.sort(descending=True, stable=True)
    cumulative = torch.cumsum(ordered.values.exp(), 0, dtype=torch.float64)
    limit = top_p * (cumulative[-1] if total is None else total)
    is_kept = torch.empty_like(logits, dtype=torch.bool)
    before = cumulative - ordered.values.exp()
    is_kept[ordered.indices] = above + before < limit
    if above == 0.0:
        is_kept[ordered.indices[0]] = True  # the best token, even if top_p is 0
    return is_kept
