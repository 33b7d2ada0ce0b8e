"""Which layers each stage gets, from what every part of the model costs. Pure.

A pipeline runs at its slowest stage's pace, and every stage holds the same number of tokens of KV,
so the stage with the least room decides for all. Both pull layers off the two ends: the LM head and
sampling take time and room on the last stage, the embedding takes room on the first unless its rows
are looked up in host memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipemax_worker.errors import UnsupportedModelError

Floats = npt.NDArray[np.float64]

MOST_CANDIDATES = 512
"""KV sizes that are tried; a model of equal layers has at most three for each number of layers."""


@dataclass(frozen=True)
class SplitCosts:
    """What the parts of a model take of the stage that holds them.

    layer_bytes           weights of each layer.
    layer_seconds         of a step in each layer, but for reading KV. In any unit of time, as long
                          as it is the same throughout.
    kv_bytes_per_token    of one layer.
    kv_seconds_per_token  that a step takes in one layer for each token of KV that it reads.
    embedding_bytes       on the first stage's device; its look-up takes no time.
    head_bytes            on the last stage.
    head_seconds          of the LM head and of sampling.
    """

    layer_bytes: tuple[int, ...]
    layer_seconds: tuple[float, ...]
    kv_bytes_per_token: int
    kv_seconds_per_token: float
    embedding_bytes: int
    head_bytes: int
    head_seconds: float


def split_layers(
    costs: SplitCosts, num_stages: int, room_bytes: Sequence[int] | None = None
) -> tuple[int, ...]:
    """Layers of each stage.

    ``room_bytes``: of each stage, for weights and KV; None: it does not depend on the split. With
    it, the split with the most tokens of KV per second of step is taken: with KV for C tokens, of
    which a step reads one part of ``num_stages``, the output is in proportion to C / T(C), T being
    the slowest stage's time. Without it, the fastest split, and of those the one whose heaviest
    stage has the fewest bytes. Of equals the most even one.

    Where the weights alone are too large for the room, the split is as without it: the caller finds
    which stage does not fit. Raises UnsupportedModelError if there are more stages than layers.
    """
    num_layers = len(costs.layer_bytes)
    if num_stages > num_layers:
        raise UnsupportedModelError(
            f"the model has {num_layers} layers, so it can be cut into at most {num_layers} "
            f"stages, not {num_stages}; lower parallelism.stagesPerNode"
        )
    if num_stages == 1:
        return (num_layers,)
    tables = _Tables(costs, num_stages)
    allowed = None if room_bytes is None else _best_for_kv(tables, room_bytes)
    if allowed is None:
        allowed = _fastest_then_lightest(tables)
    return _most_even(tables.counts, allowed)


class _Tables:
    """Of each stage and each run of layers [stage, first, end]: seconds of a step and bytes of
    weights, infinite for a run without layers. ``counts``: layers [first, end]."""

    def __init__(self, costs: SplitCosts, num_stages: int) -> None:
        self.costs = costs
        self.num_stages = num_stages
        places = np.arange(len(costs.layer_bytes) + 1)
        self.counts: Floats = (places[None, :] - places[:, None]).astype(np.float64)
        self.seconds = self._runs(costs.layer_seconds, 0.0, costs.head_seconds)
        self.bytes = self._runs(costs.layer_bytes, costs.embedding_bytes, costs.head_bytes)

    def _runs(self, layers: Sequence[float], of_first: float, of_last: float) -> Floats:
        totals = np.concatenate(([0.0], np.cumsum(layers)))
        run = np.where(self.counts > 0, totals[None, :] - totals[:, None], np.inf)
        runs: Floats = np.repeat(run[None], self.num_stages, axis=0)
        runs[0] += of_first
        runs[-1] += of_last
        return runs

    def capacity(self, room_bytes: Sequence[int]) -> Floats:
        """Tokens of KV that there is room for; negative where weights do not fit."""
        room = np.asarray(room_bytes, np.float64)[:, None, None] - self.bytes
        counts = np.maximum(self.counts, 1)
        tokens: Floats = np.floor(room / (counts * max(1, self.costs.kv_bytes_per_token)))
        return tokens

    def step_seconds(self, kv_tokens: float) -> Floats:
        """With so many tokens of KV on a stage: a step reads one part of ``num_stages`` of them."""
        each = self.costs.kv_seconds_per_token * kv_tokens / self.num_stages
        return self.seconds + each * np.maximum(self.counts, 0)


def _best_for_kv(tables: _Tables, room_bytes: Sequence[int]) -> npt.NDArray[np.bool_] | None:
    """Which runs may be part of the split; None if no split leaves room for a token."""
    capacity = tables.capacity(room_bytes)
    most = -_least_largest(-capacity)
    if most < 1:
        return None
    sizes = np.unique(capacity[(capacity >= 1) & (capacity <= most)])
    sizes = sizes[:: -(-len(sizes) // MOST_CANDIDATES)]
    best_rate, best = 0.0, None
    for kv_tokens in sizes[::-1]:
        seconds = np.where(capacity >= kv_tokens, tables.step_seconds(kv_tokens), np.inf)
        slowest = _least_largest(seconds)
        if kv_tokens > best_rate * slowest:
            best_rate, best = kv_tokens / slowest, seconds <= slowest
    return best


def _fastest_then_lightest(tables: _Tables) -> npt.NDArray[np.bool_]:
    is_fast = tables.seconds <= _least_largest(tables.seconds)
    num_bytes = np.where(is_fast, tables.bytes, np.inf)
    return num_bytes <= _least_largest(num_bytes)


def _least_largest(cost: Floats) -> float:
    """Of all splits, the least that the largest of its runs' costs can be. ``cost`` [stage, first,
    end]."""
    reached = cost[0, 0]  # the largest so far, by the end of the last run
    for of_stage in cost[1:]:
        reached = np.maximum(reached[:, None], of_stage).min(axis=0)
    return float(reached[-1])


def _most_even(counts: Floats, allowed: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    """The allowed split whose layers' squares add up to the least; of those, the one that gives
    later stages fewer."""
    squares = np.where(allowed, np.square(counts)[None], np.inf)
    reached, chosen = squares[0, 0], []
    for of_stage in squares[1:]:
        totals = reached[:, None] + of_stage
        # Of equals the run that begins last.
        chosen.append(len(totals) - 1 - np.argmin(totals[::-1], axis=0))
        reached = totals.min(axis=0)
    ends = [len(counts) - 1]
    for starts in reversed(chosen):
        ends.append(int(starts[ends[-1]]))
    ends.append(0)
    return tuple(end - start for start, end in zip(ends[:0:-1], ends[-2::-1], strict=True))
