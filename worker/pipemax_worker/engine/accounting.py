"""Totals of what happened, and the snapshot that others read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.messages import StageReport
from pipemax_worker.contract.statistics import CopyTotals, EngineStatistics, StageTotals
from pipemax_worker.engine.request_state import PreemptionKind, RequestState
from pipemax_worker.kvcache.copies import CompletedCopy


class StageTimes(Protocol):
    """What one message was to one stage."""

    @property
    def compute_seconds(self) -> float: ...

    @property
    def stall_seconds(self) -> float: ...

    @property
    def wait_seconds(self) -> float: ...


class Accounting:
    """Counters only grow; written by the scheduler's parts."""

    def __init__(self, num_stages: int) -> None:
        self.num_steps = 0
        self.num_prompt_tokens = 0
        self.num_generated_tokens = 0
        self.num_cached_tokens = 0
        self.num_recomputed_tokens = 0
        self.num_restored_tokens = 0
        self.num_batched_tokens = 0
        self.num_invalidated_blocks = 0
        self.prefetch_budget_bytes = 0
        self._num_preemptions = dict.fromkeys(PreemptionKind, 0)
        self._copies: dict[tuple[Tier, Tier], tuple[int, float]] = {}
        self._lookups: dict[Tier | None, int] = dict.fromkeys((*Tier, None), 0)
        self._stages = [(0.0, 0.0, 0.0, 0.0)] * num_stages

    def note_prefill(self, state: RequestState, num_new_tokens: int) -> None:
        """Before the row counts in ``state``: what it computes anew and what once more."""
        start = state.num_computed_tokens
        end = start + num_new_tokens
        known = min(end, state.num_ever_computed)
        self.num_recomputed_tokens += max(0, known - start)
        first_new = max(start, state.num_ever_computed)
        self.num_prompt_tokens += max(0, min(end, state.num_prompt_tokens) - first_new)

    def note_restored(self, state: RequestState) -> None:
        """The request runs again: what an earlier run left of its KV was of use, once."""
        self.num_restored_tokens += min(state.num_parked_tokens, state.num_computed_tokens)
        state.num_parked_tokens = 0

    def note_lookup(self, tiers: Iterable[Tier | None], num_missed: int) -> None:
        for tier in tiers:
            self._lookups[tier] += 1
        self._lookups[None] += num_missed

    def note_preemption(self, kind: PreemptionKind) -> None:
        self._num_preemptions[kind] += 1

    def note_copies(self, copies: Iterable[CompletedCopy]) -> None:
        for copy in copies:
            num_bytes, seconds = self._copies.get((copy.source, copy.target), (0, 0.0))
            self._copies[copy.source, copy.target] = (
                num_bytes + copy.num_bytes,
                seconds + copy.seconds,
            )

    def note_report(self, report: StageReport) -> None:
        compute, stall, wait, grammar_wait = self._stages[report.stage]
        self._stages[report.stage] = (
            compute + report.compute_seconds,
            stall + report.stall_seconds,
            wait + report.wait_seconds,
            grammar_wait + report.grammar_wait_seconds,
        )

    def note_times(self, messages: Sequence[Sequence[StageTimes]]) -> None:
        """As ``note_report`` of every stage for each message, in order."""
        for stage, (compute, stall, wait, grammar_wait) in enumerate(self._stages):
            for times in messages:
                turn = times[stage]
                compute += turn.compute_seconds
                stall += turn.stall_seconds
                wait += turn.wait_seconds
            self._stages[stage] = (compute, stall, wait, grammar_wait)

    def snapshot(self) -> EngineStatistics:
        """All that is counted here; queues, tiers and the estimator are the scheduler's to add."""
        return EngineStatistics(
            num_steps=self.num_steps,
            num_prompt_tokens=self.num_prompt_tokens,
            num_generated_tokens=self.num_generated_tokens,
            num_cached_tokens=self.num_cached_tokens,
            num_recomputed_tokens=self.num_recomputed_tokens,
            num_restored_tokens=self.num_restored_tokens,
            num_batched_tokens=self.num_batched_tokens,
            num_preemptions_by_move=self._num_preemptions[PreemptionKind.MOVE],
            num_preemptions_by_recompute=self._num_preemptions[PreemptionKind.RECOMPUTE],
            num_invalidated_blocks=self.num_invalidated_blocks,
            prefetch_budget_bytes=self.prefetch_budget_bytes,
            copies=tuple(CopyTotals(*link, *sums) for link, sums in self._copies.items()),
            stages=tuple(StageTotals(stage, *sums) for stage, sums in enumerate(self._stages)),
            kv_lookups=tuple(self._lookups.items()),
        )
