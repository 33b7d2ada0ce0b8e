"""What a mixture of experts computes and reads. Pure.

A token goes to ``experts_per_token`` of ``num_experts``. With routers that favour none, n tokens
touch the share ``1 - (1 - k/E)^n`` of the experts: their weights are read, the others' are not, and
each of them sees n k/E over that share rows on average. Real routers favour some: they touch fewer
experts, and those have more rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from pipemax_worker.contract.model_config import ModelConfig

_ROUND_OFF = 1e-9


class ExpertLayers(msgspec.Struct, frozen=True):
    """The experts of a stage's layers.

    num_parameters      of all experts of all layers.
    num_experts         of one layer; ``experts_per_token`` of them see a token.
    """

    num_parameters: int
    num_experts: int
    experts_per_token: int

    @property
    def active_share(self) -> float:
        """Of the parameters: what one token is multiplied with."""
        return self.experts_per_token / self.num_experts

    @property
    def num_active_parameters(self) -> int:
        return round(self.num_parameters * self.active_share)

    def touched_share(self, num_tokens: int) -> float:
        """Of the experts: those that ``num_tokens`` tokens are expected to go to."""
        return 1.0 - (1.0 - self.active_share) ** num_tokens

    def rows_per_expert(self, num_tokens: int) -> int:
        """Of each one that is touched, rounded up."""
        if num_tokens == 0:
            return 0
        rows = num_tokens * self.active_share / self.touched_share(num_tokens)
        return min(num_tokens, math.ceil(rows - _ROUND_OFF))


def derive_experts(config: ModelConfig, layers: Iterable[int]) -> ExpertLayers | None:
    """Of these layers of the model; None if none of them has experts."""
    num_sparse = sum(map(config.has_experts, layers))
    if config.experts is None or not num_sparse:
        return None
    num_each = config.experts.num_experts * config.experts.expert_parameters(config.hidden_size)
    return ExpertLayers(
        num_parameters=num_sparse * num_each,
        num_experts=config.experts.num_experts,
        experts_per_token=config.experts.num_experts_per_tok,
    )
