"""A router and the experts that it chooses from, in place of one MLP (Mixtral, arXiv 2401.04088).

Two spellings of the weights are read: one tensor for each expert and projection, as checkpoints
are published, and all experts of a layer in one tensor, as transformers 5 keeps them in memory and
saves them when asked to.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipemax_worker.contract.experts import ExpertsConfig
from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.errors import InvariantError
from pipemax_worker.stage.model.checkpoint import WeightSource
from pipemax_worker.stage.model.linear import Linear


@dataclass(frozen=True)
class _Names:
    """Of one layer's tensors, the layer's prefix left out. ``gate``, ``up`` and ``down`` belong to
    the expert whose number is filled in."""

    router: str
    gate: str
    up: str
    down: str

    def gate_and_up(self, prefix: str, expert: int) -> tuple[str, str]:
        return prefix + self.gate.format(expert), prefix + self.up.format(expert)


_NAMES = {
    "mixtral": _Names(
        router="block_sparse_moe.gate.weight",
        gate="block_sparse_moe.experts.{}.w1.weight",
        up="block_sparse_moe.experts.{}.w3.weight",
        down="block_sparse_moe.experts.{}.w2.weight",
    ),
    "qwen3_moe": _Names(
        router="mlp.gate.weight",
        gate="mlp.experts.{}.gate_proj.weight",
        up="mlp.experts.{}.up_proj.weight",
        down="mlp.experts.{}.down_proj.weight",
    ),
}
_FUSED_ROUTER = "mlp.gate.weight"
_FUSED_GATE_UP = "mlp.experts.gate_up_proj"
_FUSED_DOWN = "mlp.experts.down_proj"


class ExpertMatrices:
    """One projection of all experts of a layer.

    ``stacked`` [num_experts, out, in] is what kernels for all experts read; None where each
    expert's matrix is packed for the CPU by itself.
    """

    def __init__(self, linears: list[Linear], stacked: torch.Tensor | None) -> None:
        self._linears = linears
        self._stacked = stacked

    @classmethod
    def of(cls, stacked: torch.Tensor) -> ExpertMatrices:
        linears = [Linear(weight, None) for weight in stacked]
        return cls(linears, None if linears[0].is_packed else stacked)

    def __getitem__(self, expert: int) -> Linear:
        return self._linears[expert]

    @property
    def stacked(self) -> torch.Tensor:
        if self._stacked is None:
            raise InvariantError("the experts' matrices are packed one by one for the CPU")
        return self._stacked

    @property
    def weight_bytes(self) -> int:
        return sum(linear.weight_bytes for linear in self._linears)


class Experts:
    """One layer's router and experts. Reads its weights when built.

    router    [num_experts, hidden]
    gate_up   of each expert: [2 width, hidden], gate above up
    down      of each expert: [hidden, width]
    """

    def __init__(self, config: ModelConfig, weights: WeightSource, prefix: str) -> None:
        """``prefix``: of the layer's tensors, with the dot at its end. Raises what reading
        raises."""
        if config.experts is None:
            raise InvariantError(f"{config.architecture} has no experts in its configuration")
        self.config: ExpertsConfig = config.experts
        self._hidden = config.hidden_size
        is_fused = weights.has(prefix + _FUSED_GATE_UP)
        names = _NAMES[config.model_type]
        router = prefix + (_FUSED_ROUTER if is_fused else names.router)
        shape = (self.config.num_experts, self._hidden)
        self.router = Linear(weights.read(router, *shape), None)
        if is_fused:
            self.gate_up, self.down = self._read_fused(weights, prefix)
        else:
            self.gate_up, self.down = self._read_each(weights, prefix, names)

    @property
    def weight_bytes(self) -> int:
        matrices = (self.router, self.gate_up, self.down)
        return sum(matrix.weight_bytes for matrix in matrices)

    def choose(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``x`` [num_tokens, hidden] -> weights float32 and experts int64, both
        [num_tokens, num_experts_per_tok].

        In transformers' order: softmax over all experts, the largest of it, and these made to add
        up to 1 if the model wants that. Like there in float32; but logits are not rounded before.
        """
        probabilities = torch.softmax(self.router.in_float32(x), dim=-1)
        weights, chosen = torch.topk(probabilities, self.config.num_experts_per_tok, dim=-1)
        if self.config.norm_topk_prob:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights, chosen

    def _read_fused(
        self, weights: WeightSource, prefix: str
    ) -> tuple[ExpertMatrices, ExpertMatrices]:
        count, width = self.config.num_experts, self.config.intermediate_size
        gate_up = weights.read(prefix + _FUSED_GATE_UP, count, 2 * width, self._hidden)
        down = weights.read(prefix + _FUSED_DOWN, count, self._hidden, width)
        return ExpertMatrices.of(gate_up), ExpertMatrices.of(down)

    def _read_each(
        self, weights: WeightSource, prefix: str, names: _Names
    ) -> tuple[ExpertMatrices, ExpertMatrices]:
        count, width = self.config.num_experts, self.config.intermediate_size
        gate_up = [
            dict.fromkeys(names.gate_and_up(prefix, expert), width) for expert in range(count)
        ]
        down = [{prefix + names.down.format(expert): self._hidden} for expert in range(count)]
        return (
            _read_matrices(weights, gate_up, self._hidden),
            _read_matrices(weights, down, width),
        )


def _read_matrices(
    weights: WeightSource, rows_of: list[dict[str, int]], num_columns: int
) -> ExpertMatrices:
    """``rows_of``: for each expert its tensors, which lie one below the other, and their rows.

    Matrices that are packed are read one by one, so that no more than one lies there twice.
    """
    first = Linear(weights.read_stacked(rows_of[0], num_columns), None)
    if first.is_packed:
        others = (weights.read_stacked(rows, num_columns) for rows in rows_of[1:])
        return ExpertMatrices([first, *(Linear(weight, None) for weight in others)], None)
    del first
    all_rows = {name: count for rows in rows_of for name, count in rows.items()}
    stacked = weights.read_stacked(all_rows, num_columns)
    return ExpertMatrices.of(stacked.view(len(rows_of), -1, num_columns))
