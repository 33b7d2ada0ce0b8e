"""Step times from measured GEMM times: the plateau of the weights' reading and the tile steps."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import msgspec

from pipemax_worker.errors import InvariantError
from pipemax_worker.performance.batch_shape import BatchShape
from pipemax_worker.performance.hardware import HardwareProfile
from pipemax_worker.performance.step_cost import (
    StageCost,
    attention_seconds,
    first_alike,
    fixed_seconds,
    padded_tokens,
)


class GemmTable(msgspec.Struct, frozen=True):
    """Seconds that all GEMMs over ``weight_bytes`` of weights take, by the number of tokens.

    points        (tokens, seconds), by tokens; linear between them, constant before the first.
    Beyond the last one a token costs what it costs on average there.
    """

    weight_bytes: int
    points: tuple[tuple[int, float], ...]

    def seconds(self, num_tokens: int, weight_bytes: int) -> float:
        """Seconds for ``num_tokens`` and a stage of ``weight_bytes`` on the same card."""
        return self._reference_seconds(num_tokens) * weight_bytes / self.weight_bytes

    def _reference_seconds(self, num_tokens: int) -> float:
        points = self.points
        last_tokens, last_seconds = points[-1]
        if num_tokens >= last_tokens:
            return last_seconds * num_tokens / last_tokens
        index = bisect_left(points, (num_tokens, 0.0))
        high_tokens, high_seconds = points[index]
        if index == 0 or high_tokens == num_tokens:
            return high_seconds
        low_tokens, low_seconds = points[index - 1]
        share = (num_tokens - low_tokens) / (high_tokens - low_tokens)
        return low_seconds + share * (high_seconds - low_seconds)


class TableCost:
    """GEMMs from ``table``; KV, attention's arithmetic and overheads from ``profile``.

    Raises InvariantError for an empty table.
    """

    def __init__(
        self, profile: HardwareProfile, table: GemmTable, stages: Sequence[StageCost]
    ) -> None:
        if not table.points:
            raise InvariantError("a GEMM table without points predicts nothing; measure some")
        self.profile = profile
        self.table = table
        self.stages = tuple(stages)
        self.alike = first_alike(self.stages)

    @property
    def num_stages(self) -> int:
        return len(self.stages)

    def stage_seconds(self, shape: BatchShape, stage: int) -> float:
        cost, profile = self.stages[stage], self.profile
        head_bytes = _head_bytes(cost)
        num_rows = padded_tokens(shape.num_tokens, profile.tile_tokens)
        seconds = self.table.seconds(num_rows, cost.weight_bytes - head_bytes - cost.expert_bytes)
        if cost.experts is not None:  # each touched expert is a product of its own rows
            num_rows = cost.experts.rows_per_expert(shape.num_tokens)
            touched_share = cost.experts.touched_share(shape.num_tokens)
            seconds += self.table.seconds(num_rows, int(cost.expert_bytes * touched_share))
        if head_bytes:
            seconds += self.table.seconds(shape.num_requests, head_bytes)
        return seconds + attention_seconds(profile, cost, shape) + fixed_seconds(profile, cost)


def _head_bytes(cost: StageCost) -> int:
    """Of ``weight_bytes``: the LM head's share of the parameters."""
    num_parameters = cost.num_parameters + cost.num_head_parameters
    if cost.experts is not None:
        num_parameters += cost.experts.num_parameters
    return cost.weight_bytes * cost.num_head_parameters // max(1, num_parameters)
