"""The statistics of several engines, one after the other, as one. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

import msgspec

from pipemax_worker.contract.statistics import CopyTotals, EngineStatistics, StageTotals

COUNTERS = (
    "num_steps",
    "num_prompt_tokens",
    "num_generated_tokens",
    "num_cached_tokens",
    "num_recomputed_tokens",
    "num_restored_tokens",
    "num_batched_tokens",
    "num_preemptions_by_move",
    "num_preemptions_by_recompute",
    "num_invalidated_blocks",
)
"""Fields of EngineStatistics that count; those below are sums of parts, all others a state."""

Name = TypeVar("Name", bound=Hashable)


def add_statistics(past: EngineStatistics, present: EngineStatistics) -> EngineStatistics:
    """Counters of both, the state of ``present``: a counter that is exported never goes back."""
    return msgspec.structs.replace(
        present,
        **{name: getattr(past, name) + getattr(present, name) for name in COUNTERS},
        copies=_add_copies((*past.copies, *present.copies)),
        stages=_add_stages((*past.stages, *present.stages)),
        kv_lookups=tuple(
            (tier, round(count))
            for tier, (count,) in _sum(
                (tier, (count,)) for tier, count in (*past.kv_lookups, *present.kv_lookups)
            ).items()
        ),
    )


def _add_copies(copies: Iterable[CopyTotals]) -> tuple[CopyTotals, ...]:
    sums = _sum(((copy.source, copy.target), (copy.num_bytes, copy.seconds)) for copy in copies)
    return tuple(
        CopyTotals(*link, round(num_bytes), seconds) for link, (num_bytes, seconds) in sums.items()
    )


def _add_stages(stages: Iterable[StageTotals]) -> tuple[StageTotals, ...]:
    rows = map(msgspec.structs.astuple, stages)
    sums = _sum((stage, seconds) for stage, *seconds in rows)
    return tuple(StageTotals(stage, *seconds) for stage, seconds in sums.items())


def _sum(parts: Iterable[tuple[Name, Sequence[float]]]) -> dict[Name, tuple[float, ...]]:
    """Values of the same name added up, in order of the names' first appearance."""
    sums: dict[Name, tuple[float, ...]] = {}
    for name, values in parts:
        before = sums.get(name, (0,) * len(values))
        sums[name] = tuple(one + other for one, other in zip(before, values, strict=True))
    return sums
