"""Which settings of a policy are worth simulating, and the walk from one to a better one. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from pipemax_worker.engine.policies import WITHOUT_HOST_TIER
from pipemax_worker.planner.limits import knee_tokens
from pipemax_worker.planner.simulation import SimulationSettings
from pipemax_worker.planner.workload import Workload

OURS = "fused"
_ROW_TOKENS = 16
_LARGE_STEP_TOKENS = 2048
_FEWEST_REQUESTS, _MOST_REQUESTS = 500, 3000

Axis = tuple[str, tuple[Any, ...]]
"""A field of ``EngineChoice``, and the values to try for it."""


class EngineChoice(msgspec.Struct, frozen=True):
    """Fields of a job's engine that a plan may choose. None: as the job has it."""

    policy: str
    max_batched_tokens: int | None = None
    num_micro_batches: int | None = None
    kv_dtype: str | None = None
    has_host_tier: bool = True


def axes_of(choice: EngineChoice, settings: SimulationSettings) -> tuple[Axis, ...]:
    """For ours: tokens of a step about the knee of its cost, one micro-batch more than stages, no
    host tier. For others the tokens of a step alone: their users tune that."""
    tokens = tuple(
        value for value in step_sizes(settings) if value != settings.scheduler.max_batched_tokens
    )
    if choice.policy != OURS:
        return (("max_batched_tokens", tokens[-1:]),)
    axes: list[Axis] = [
        ("max_batched_tokens", tokens[:-1]),
        ("num_micro_batches", (settings.geometry.num_stages + 1,)),
    ]
    if settings.geometry.num_host_slots and choice.policy not in WITHOUT_HOST_TIER:
        axes.append(("has_host_tier", (False,)))
    return tuple(axes)


def step_sizes(settings: SimulationSettings) -> tuple[int, ...]:
    """Tokens of a step: the knee rounded to rows and up to a tile, twice that, and a large one,
    which none of them exceeds: the knee of a mixture of experts is far beyond what steps hold."""
    knee = max(1, knee_tokens(settings))
    tile = settings.node.gpu.tile_tokens or _ROW_TOKENS
    whole_tiles = -(-knee // tile) * tile
    below_knee = max(_ROW_TOKENS, knee // _ROW_TOKENS * _ROW_TOKENS)
    sizes = {below_knee, whole_tiles, 2 * whole_tiles}
    return (*sorted(size for size in sizes if size < _LARGE_STEP_TOKENS), _LARGE_STEP_TOKENS)


def enough_requests(settings: SimulationSettings, workload: Workload) -> int:
    """So many that the run's end does not hide its middle: three times what the GPUs hold at once,
    between 500 and 3,000."""
    geometry = settings.geometry
    num_tokens = workload.num_prompt_tokens + workload.num_output_tokens / 2
    room = geometry.num_device_slots * geometry.block_tokens
    num_held = room * len(workload.lengths) / num_tokens
    return max(_FEWEST_REQUESTS, min(_MOST_REQUESTS, round(3 * num_held)))


def refine(
    start: EngineChoice,
    axes: Sequence[Axis],
    try_out: Callable[[EngineChoice], float | None],
) -> EngineChoice:
    """The best choice found by going along one axis after the other.

    ``try_out`` says what a choice costs, None if it cannot be.
    """
    best, best_cost = start, try_out(start)
    for field, values in axes:
        origin = best
        for value in values:
            choice = msgspec.structs.replace(origin, **{field: value})
            cost = try_out(choice)
            if cost is not None and (best_cost is None or cost < best_cost):
                best, best_cost = choice, cost
    return best
