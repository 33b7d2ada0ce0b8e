"""A mixture of experts in plain PyTorch, expert by expert: the reference on every device."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pipemax_worker.stage.model.experts import Experts


def mix_experts(
    x: torch.Tensor,
    experts: Experts,
    residual: torch.Tensor,
    silu_and_multiply: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """``x`` and ``residual`` [num_tokens, hidden] -> the residual plus each token's experts by
    their weights. The residual may be written to.

    A token's experts are added in the order of their numbers, whatever else is in the batch; sums
    are float32. On a GPU the host waits for the router's choice.
    """
    weights, chosen = experts.choose(x)  # [num_tokens, num_experts_per_tok]
    order = chosen.flatten().argsort(stable=True)  # pairs of token and expert, by expert
    tokens = order // chosen.shape[1]
    weight_of = weights.flatten()[order][:, None]
    counts = torch.bincount(chosen.flatten(), minlength=experts.config.num_experts).tolist()
    mixed = torch.zeros_like(x, dtype=torch.float32)
    start = 0
    for expert, count in enumerate(counts):
        if count == 0:
            continue
        pairs = slice(start, start + count)
        start += count
        activated = silu_and_multiply(experts.gate_up[expert](x[tokens[pairs]]))
        y = experts.down[expert](activated)  # [count, hidden]
        mixed.index_add_(0, tokens[pairs], y.float() * weight_of[pairs])
    return residual.add_(mixed)
