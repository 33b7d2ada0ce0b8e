"""Totals that the engine keeps and that metrics, progress and summaries read. Counters grow."""

from __future__ import annotations

import msgspec

from pipemax_worker.contract.geometry import Tier


class CopyTotals(msgspec.Struct, frozen=True):
    """Copies from one tier to another, all stages together. ``seconds`` sums the slowest stage."""

    source: Tier
    target: Tier
    num_bytes: int
    seconds: float


class TierOccupancy(msgspec.Struct, frozen=True):
    """Slots of one tier: held by requests, kept only for prefix sharing, or free."""

    tier: Tier
    num_used: int
    num_cached: int
    num_free: int


class LinkRate(msgspec.Struct, frozen=True):
    """What one stage lately got from ``source`` to ``target``; at first the profile's rate."""

    source: Tier
    target: Tier
    bytes_per_second: float


class StageTotals(msgspec.Struct, frozen=True):
    """Where one stage's time went, in seconds, as in ``StageReport``."""

    stage: int
    compute_seconds: float
    stall_seconds: float
    wait_seconds: float
    grammar_wait_seconds: float = 0.0


class EngineStatistics(msgspec.Struct, frozen=True):
    """A snapshot.

    Tokens: ``num_prompt_tokens`` were computed for the first time, ``num_cached_tokens`` were found
    in the prefix cache, ``num_recomputed_tokens`` were computed again after a preemption or a bad
    block, ``num_restored_tokens`` came from KV parked by an earlier run.
    """

    num_steps: int = 0
    num_waiting: int = 0
    num_running: int = 0
    num_preempted: int = 0
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    num_cached_tokens: int = 0
    num_recomputed_tokens: int = 0
    num_restored_tokens: int = 0
    num_batched_tokens: int = 0
    num_preemptions_by_move: int = 0
    num_preemptions_by_recompute: int = 0
    num_invalidated_blocks: int = 0
    prefetch_budget_bytes: int = 0
    estimator_error_ratio: float = 0.0
    copies: tuple[CopyTotals, ...] = ()
    occupancy: tuple[TierOccupancy, ...] = ()
    stages: tuple[StageTotals, ...] = ()
    kv_lookups: tuple[tuple[Tier | None, int], ...] = ()
    links: tuple[LinkRate, ...] = ()


class StepRecord(msgspec.Struct, frozen=True):
    """One micro-batch, after every stage has reported it. ``seconds`` is the slowest stage's;
    ``num_kv_tokens``: positions that its attention sees."""

    sequence: int
    num_tokens: int
    num_prefill_tokens: int
    seconds: float
    num_kv_tokens: int = 0
    num_requests: int = 0
