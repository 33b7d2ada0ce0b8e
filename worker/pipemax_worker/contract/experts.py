"""The mixture of experts of a model's layers (Mixtral, arXiv 2401.04088), from ``config.json``."""

from __future__ import annotations

from typing import Any

import msgspec

from pipemax_worker.errors import UnsupportedModelError


class ExpertsConfig(msgspec.Struct, frozen=True):
    """What a router chooses from, in each of ``layers``.

    num_experts_per_tok     experts that each token goes through.
    intermediate_size       width of one expert.
    norm_topk_prob          the weights of a token's experts are made to add up to 1.
    layers                  those that have experts, in order; the others have one MLP.
    """

    num_experts: int
    num_experts_per_tok: int
    intermediate_size: int
    norm_topk_prob: bool
    layers: tuple[int, ...]

    def is_in(self, layer: int) -> bool:
        """Whether ``layer``, counted from 0, has experts."""
        return layer in self.layers

    def expert_parameters(self, hidden_size: int) -> int:
        """Of one expert's three matrices."""
        return 3 * hidden_size * self.intermediate_size

    def stored_parameters(self, hidden_size: int) -> int:
        """Of all experts of a layer and its router."""
        router = self.num_experts * hidden_size
        return self.num_experts * self.expert_parameters(hidden_size) + router

    def active_parameters(self, hidden_size: int) -> int:
        """Of those that one token is multiplied with, and the router."""
        router = self.num_experts * hidden_size
        return self.num_experts_per_tok * self.expert_parameters(hidden_size) + router


def read_experts(fields: dict[str, Any], kind: str, where: str) -> ExpertsConfig | None:
    """``fields`` of a model of the type ``kind``; None if no layer has experts.

    transformers 5 calls the number of experts ``num_local_experts`` in every family; Qwen's own
    files say ``num_experts``. Raises UnsupportedModelError; ``where`` names the file.
    """
    if kind == "mixtral":
        layers = tuple(range(fields["num_hidden_layers"]))
        count, width = "num_local_experts", "intermediate_size"
    elif kind == "qwen3_moe":
        layers = _sparse_layers(fields, where)
        count = "num_local_experts" if "num_local_experts" in fields else "num_experts"
        width = "moe_intermediate_size"
    else:
        return None
    if not layers or fields[count] == 0:
        return None
    for name in (count, "num_experts_per_tok", width):
        _check_positive(fields[name], name, where)
    if fields["num_experts_per_tok"] > fields[count]:
        raise UnsupportedModelError(
            f"{where}: num_experts_per_tok ({fields['num_experts_per_tok']}) must not be above "
            f"{count} ({fields[count]})"
        )
    return ExpertsConfig(
        num_experts=fields[count],
        num_experts_per_tok=fields["num_experts_per_tok"],
        intermediate_size=fields[width],
        norm_topk_prob=kind == "mixtral" or bool(fields.get("norm_topk_prob", False)),
        layers=layers,
    )


def _sparse_layers(fields: dict[str, Any], where: str) -> tuple[int, ...]:
    """As Qwen3-MoE chooses them: each ``decoder_sparse_step``-th, but for ``mlp_only_layers``."""
    step = fields.get("decoder_sparse_step", 1)
    _check_positive(step, "decoder_sparse_step", where)
    without = frozenset(fields.get("mlp_only_layers") or ())
    layers = range(fields["num_hidden_layers"])
    return tuple(n for n in layers if n not in without and (n + 1) % step == 0)


def _check_positive(value: Any, name: str, where: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UnsupportedModelError(f"{where}: {name} must be a positive integer, not {value!r}")
