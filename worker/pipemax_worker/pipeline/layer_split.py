"""How a model is cut into stages, from what every part of it costs. Pure.

A pipeline runs at its slowest stage's pace, and every stage holds the same number of tokens of KV,
so the stage with the least room decides for all. Both pull layers off the two ends: the LM head and
sampling take time and room on the last stage, the embedding takes room on the first unless its rows
are looked up in host memory.

Whole layers are coarse where a stage has few. So where room for KV decides, a cut may also go
between a layer's attention and its MLP: what travels is as large there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipemax_worker.contract.model_cut import ModelCut
from pipemax_worker.errors import UnsupportedModelError

Floats = npt.NDArray[np.float64]

MOST_CANDIDATES = 1024
"""KV sizes that are tried. A model of equal layers has at most three for each number of layers, and
nine with cuts within them."""

LEAST_GAIN = 1e-9
"""Of the rate, for cutting within layers: less is rounding."""


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
    mlp_bytes             of ``layer_bytes`` those that follow the attention; of a layer's time they
                          take the same share. Empty: layers are not to be cut.
    """

    layer_bytes: tuple[int, ...]
    layer_seconds: tuple[float, ...]
    kv_bytes_per_token: int
    kv_seconds_per_token: float
    embedding_bytes: int
    head_bytes: int
    head_seconds: float
    mlp_bytes: tuple[int, ...] = ()

    def mlp_seconds(self, layer: int) -> float:
        """Of ``layer_seconds``."""
        if not self.mlp_bytes:
            return 0.0
        return self.layer_seconds[layer] * self.mlp_bytes[layer] / self.layer_bytes[layer]


def split_layers(
    costs: SplitCosts, num_stages: int, room_bytes: Sequence[int] | None = None
) -> tuple[int, ...]:
    """Layers of each stage, all of them whole.

    ``room_bytes``: of each stage, for weights and KV; None: it does not depend on the split. With
    it, the split with the most tokens of KV per second of step is taken: with KV for C tokens, of
    which a step reads one part of ``num_stages``, the output is in proportion to C / T(C), T being
    the slowest stage's time. Without it, the fastest split, and of those the one whose heaviest
    stage has the fewest bytes. Of equals the most even one.

    Where the weights alone are too large for the room, the split is as without it: the caller finds
    which stage does not fit. Raises UnsupportedModelError if there are more stages than layers.
    """
    return cut_model(replace(costs, mlp_bytes=()), num_stages, room_bytes).layers_of_stage


def cut_model(
    costs: SplitCosts, num_stages: int, room_bytes: Sequence[int] | None = None
) -> ModelCut:
    """As :func:`split_layers`, but that with ``room_bytes`` cuts may go within layers too, where
    that gives more tokens of KV per second of step than the best cut between them.

    Raises UnsupportedModelError if there are more stages than layers.
    """
    num_layers = len(costs.layer_bytes)
    if num_stages > num_layers:
        raise UnsupportedModelError(
            f"the model has {num_layers} layers, so it can be cut into at most {num_layers} "
            f"stages, not {num_stages}; lower parallelism.stagesPerNode"
        )
    if num_stages == 1:
        return ModelCut((num_layers,))
    whole = _Tables(costs, num_stages, _whole_layers(costs))
    if room_bytes is None:
        return whole.cut(_fastest_then_lightest(whole))
    rate, allowed = _best_for_kv(whole, room_bytes)
    if costs.mlp_bytes:
        parts = _Tables(costs, num_stages, _layer_parts(costs))
        finer_rate, finer = _best_for_kv(parts, room_bytes)
        if finer is not None and finer_rate > (1 + LEAST_GAIN) * rate:
            return parts.cut(finer)
    return whole.cut(_fastest_then_lightest(whole) if allowed is None else allowed)


@dataclass(frozen=True)
class _Parts:
    """What the model is a sequence of: cuts go between any two. ``attention``: 1 of a part with a
    layer's attention and KV, 0 of an MLP by itself."""

    bytes: Sequence[float]
    seconds: Sequence[float]
    attention: Sequence[int]


def _whole_layers(costs: SplitCosts) -> _Parts:
    return _Parts(costs.layer_bytes, costs.layer_seconds, (1,) * len(costs.layer_bytes))


def _layer_parts(costs: SplitCosts) -> _Parts:
    num_bytes: list[float] = []
    seconds: list[float] = []
    for layer, mlp_bytes in enumerate(costs.mlp_bytes):
        mlp_seconds = costs.mlp_seconds(layer)
        num_bytes += (costs.layer_bytes[layer] - mlp_bytes, mlp_bytes)
        seconds += (costs.layer_seconds[layer] - mlp_seconds, mlp_seconds)
    return _Parts(num_bytes, seconds, (1, 0) * len(costs.mlp_bytes))


class _Tables:
    """Of each stage and each run of parts [stage, first, end]: seconds of a step and bytes of
    weights, infinite for a run without attention. ``counts``: layers [first, end], by their
    attention."""

    def __init__(self, costs: SplitCosts, num_stages: int, parts: _Parts) -> None:
        self.costs = costs
        self.num_stages = num_stages
        self._num_before = np.concatenate(([0], np.cumsum(parts.attention)))
        # Where a cut is one within a layer: behind its attention, before what has none.
        self._is_within = np.array([*(kind == 0 for kind in parts.attention), False])
        self.counts: Floats = (self._num_before[None, :] - self._num_before[:, None]).astype(float)
        self.seconds = self._runs(parts.seconds, 0.0, costs.head_seconds)
        self.bytes = self._runs(parts.bytes, costs.embedding_bytes, costs.head_bytes)

    def _runs(self, parts: Sequence[float], of_first: float, of_last: float) -> Floats:
        totals = np.concatenate(([0.0], np.cumsum(parts)))
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

    def mean_seconds(self, kv_tokens: float) -> float:
        """Of the stages, however the model is cut: the slowest is no faster."""
        costs = self.costs
        each = costs.kv_seconds_per_token * kv_tokens / self.num_stages
        total = sum(costs.layer_seconds) + costs.head_seconds + each * len(costs.layer_bytes)
        return total / self.num_stages

    def cut(self, allowed: npt.NDArray[np.bool_]) -> ModelCut:
        """Of the cuts into allowed runs the most even one; of those, the one with the fewest cuts
        within layers; of those, the one that gives later stages fewer."""
        unevenness = np.square(self.counts) + self._is_within[:, None] / (2 * self.num_stages)
        edges = _least_total(np.where(allowed, unevenness[None], np.inf))
        layers = np.diff(self._num_before[edges]).tolist()
        within = self._is_within[edges[1:]].tolist()
        return ModelCut(tuple(layers), tuple(within) if any(within) else ())


def _best_for_kv(
    tables: _Tables, room_bytes: Sequence[int]
) -> tuple[float, npt.NDArray[np.bool_] | None]:
    """The most tokens of KV per second of step, and which runs may be part of such a cut; 0 and
    None if none leaves room for a token."""
    capacity = tables.capacity(room_bytes)
    most = -_least_largest(-capacity)
    best_rate, best = 0.0, None
    if most < 1:
        return best_rate, best
    sizes = np.unique(capacity[(capacity >= 1) & (capacity <= most)])[::-1]
    sizes = sizes[:: -(-len(sizes) // MOST_CANDIDATES)]
    for kv_tokens in sizes:
        if kv_tokens <= best_rate * tables.mean_seconds(kv_tokens):
            break  # nor can a smaller one be better
        seconds = np.where(capacity >= kv_tokens, tables.step_seconds(kv_tokens), np.inf)
        slowest = _least_largest(seconds)
        if kv_tokens > best_rate * slowest:
            best_rate, best = kv_tokens / slowest, seconds <= slowest
    return best_rate, best


def _fastest_then_lightest(tables: _Tables) -> npt.NDArray[np.bool_]:
    is_fast = tables.seconds <= _least_largest(tables.seconds)
    num_bytes = np.where(is_fast, tables.bytes, np.inf)
    return num_bytes <= _least_largest(num_bytes)


def _least_largest(cost: Floats) -> float:
    """Of all cuts, the least that the largest of its runs' costs can be. ``cost`` [stage, first,
    end]."""
    reached = cost[0, 0]  # the largest so far, by the end of the last run
    for of_stage in cost[1:]:
        reached = np.maximum(reached[:, None], of_stage).min(axis=0)
    return float(reached[-1])


def _least_total(cost: Floats) -> list[int]:
    """The edges of the cut whose runs' costs [stage, first, end] add up to the least; of equals one
    whose last runs begin last."""
    reached, chosen = cost[0, 0], []
    for of_stage in cost[1:]:
        totals = reached[:, None] + of_stage
        chosen.append(len(totals) - 1 - np.argmin(totals[::-1], axis=0))
        reached = totals.min(axis=0)
    edges = [cost.shape[2] - 1]
    for starts in reversed(chosen):
        edges.append(int(starts[edges[-1]]))
    return [0, *edges[::-1]]
