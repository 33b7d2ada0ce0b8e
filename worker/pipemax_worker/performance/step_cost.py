"""What a step costs a stage, as functions of its shape: the priors that an estimator corrects.

Three forms, one protocol. The *roofline* knows nominal speeds alone:

    T = max(weight_bytes / BW, 2 * parameters * tokens / FLOPS) + kv_bytes / BW + overhead

so it has the plateau: up to the knee, where the FLOPS of a step take as long as reading the
weights, a further token is free. The experts of a mixture come to it with a maximum of their own
(``experts``). The *table* (``step_table``) has measured GEMM times, with their
tile steps. The *linear* form (``linear_cost``) is that of PipeMax (arXiv 2605.02189).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from pipemax_worker.performance.batch_shape import BatchShape
from pipemax_worker.performance.experts import ExpertLayers
from pipemax_worker.performance.hardware import HardwareProfile

_FLOPS_PER_PAIR_AND_ELEMENT = 4
"""Of attention: a multiplication and an addition for the score, and again for the value."""


class StageCost(msgspec.Struct, frozen=True):
    """What one stage holds.

    weight_bytes          read from memory once a step, experts included.
    num_parameters        multiplied with every token.
    kv_bytes_per_token    of this stage's layers.
    num_head_parameters   of the LM head, multiplied with one token a row; 0 if the stage has none,
                          or if they are counted with the others.
    attention_width       query heads x head size x layers: elements of a (query, key) pair.
    num_layers            of this stage; each has its launches.
    experts               beside ``num_parameters``; None: every layer is dense.
    """

    weight_bytes: int
    num_parameters: int
    kv_bytes_per_token: int
    num_head_parameters: int = 0
    attention_width: int = 0
    num_layers: int = 0
    experts: ExpertLayers | None = None

    @property
    def num_active_parameters(self) -> int:
        """Multiplied with every token, those of its experts included, the head's not."""
        return self.num_parameters + (self.experts.num_active_parameters if self.experts else 0)

    @property
    def expert_bytes(self) -> int:
        """Of ``weight_bytes``."""
        if self.experts is None:
            return 0
        num_others = self.num_parameters + self.num_head_parameters
        num_parameters = self.experts.num_parameters
        return self.weight_bytes * num_parameters // (num_parameters + num_others)

    def shared_by(self, num_cards: int, kv_share: float) -> StageCost:
        """What each of ``num_cards`` holds that share every matrix; of the KV each has
        ``kv_share``."""
        experts = self.experts and msgspec.structs.replace(
            self.experts, num_parameters=self.experts.num_parameters // num_cards
        )
        return msgspec.structs.replace(
            self,
            weight_bytes=self.weight_bytes // num_cards,
            num_parameters=self.num_parameters // num_cards,
            kv_bytes_per_token=round(self.kv_bytes_per_token * kv_share),
            num_head_parameters=self.num_head_parameters // num_cards,
            attention_width=self.attention_width // num_cards,
            experts=experts,
        )


class StepCost(Protocol):
    """A prior: pure.

    alike   for each stage the first one that costs the same: what is known of one is known of all.
    """

    @property
    def num_stages(self) -> int: ...

    @property
    def alike(self) -> tuple[int, ...]: ...

    def stage_seconds(self, shape: BatchShape, stage: int) -> float:
        """Seconds that ``stage`` computes for ``shape``."""
        ...


class RooflineCost:
    """See the module. ``tile_tokens`` of the profile: above one tile, GEMM rows are padded to whole
    tiles; 0: never."""

    def __init__(self, profile: HardwareProfile, stages: Sequence[StageCost]) -> None:
        self.profile = profile
        self.stages = tuple(stages)
        self.alike = first_alike(self.stages)
        bandwidth = profile.memory_bandwidth_bytes_per_second
        self._rates = [
            ((cost.weight_bytes - cost.expert_bytes) / bandwidth, profile.flops_per_second)
            for cost in self.stages
        ]
        self._fixed = [fixed_seconds(profile, cost) for cost in self.stages]

    @property
    def num_stages(self) -> int:
        return len(self.stages)

    def stage_seconds(self, shape: BatchShape, stage: int) -> float:
        cost = self.stages[stage]
        num_rows = padded_tokens(shape.num_tokens, self.profile.tile_tokens)
        products = num_rows * cost.num_parameters + shape.num_requests * cost.num_head_parameters
        weights_seconds, flops_per_second = self._rates[stage]
        gemm_seconds = max(weights_seconds, 2 * products / flops_per_second)
        if cost.experts is not None:
            gemm_seconds += self._expert_seconds(cost, cost.experts, shape.num_tokens)
        return gemm_seconds + attention_seconds(self.profile, cost, shape) + self._fixed[stage]

    def _expert_seconds(self, cost: StageCost, experts: ExpertLayers, num_tokens: int) -> float:
        """The touched experts' weights read, or their rows multiplied."""
        share = experts.touched_share(num_tokens)
        num_rows = padded_tokens(experts.rows_per_expert(num_tokens), self.profile.tile_tokens)
        bandwidth = self.profile.memory_bandwidth_bytes_per_second
        return share * max(
            cost.expert_bytes / bandwidth,
            2 * num_rows * experts.num_parameters / self.profile.flops_per_second,
        )

    @property
    def knee_tokens(self) -> int:
        """Tokens up to which a step of the slowest stage costs no more than its weights' reading.

        By nominal speeds; a further prefill token is nearly free below it.
        """
        return max(1, int(min(map(self._knee, self.stages))))

    def _knee(self, cost: StageCost) -> float:
        parameters = max(1, cost.num_active_parameters + cost.num_head_parameters)
        per_token = 2 * parameters / self.profile.flops_per_second
        return cost.weight_bytes / self.profile.memory_bandwidth_bytes_per_second / per_token


def attention_seconds(profile: HardwareProfile, cost: StageCost, shape: BatchShape) -> float:
    """Reading the KV once, and the arithmetic of prompts where that takes longer than nothing."""
    read_seconds = (
        shape.num_kv_tokens * cost.kv_bytes_per_token / profile.memory_bandwidth_bytes_per_second
    )
    flops = _FLOPS_PER_PAIR_AND_ELEMENT * shape.num_prompt_pairs * cost.attention_width
    return read_seconds + flops / profile.flops_per_second


def fixed_seconds(profile: HardwareProfile, cost: StageCost) -> float:
    return profile.step_overhead_seconds + cost.num_layers * profile.layer_overhead_seconds


def first_alike(stages: Sequence[object]) -> tuple[int, ...]:
    """For each stage the first one that equals it."""
    return tuple(list(stages).index(stage) for stage in stages)


def all_stage_seconds(cost: StepCost, shape: BatchShape) -> list[float]:
    """``stage_seconds`` of every stage, computed once for those that are alike."""
    by_first = {first: cost.stage_seconds(shape, first) for first in set(cost.alike)}
    return [by_first[first] for first in cost.alike]


def padded_tokens(num_tokens: int, tile_tokens: int) -> int:
    """Rows that a GEMM computes for ``num_tokens``: whole tiles above the first."""
    if tile_tokens <= 0 or num_tokens <= tile_tokens:
        return num_tokens
    return -(-num_tokens // tile_tokens) * tile_tokens
