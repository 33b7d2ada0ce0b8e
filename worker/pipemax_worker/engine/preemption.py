"""Who makes room when blocks run short, and whether by moving or by computing again. Pure."""

from __future__ import annotations

from pipemax_worker.engine.request_state import PreemptionKind
from pipemax_worker.engine.view import PreemptibleRequest, SchedulerView
from pipemax_worker.performance.batch_shape import BatchShape


def choose_preemptions(
    view: SchedulerView, num_short_blocks: int
) -> tuple[tuple[int, PreemptionKind], ...]:
    """The youngest requests that free ``num_short_blocks``, with the cheaper way for each.

    What already returns counts, so that waiting for a move does not preempt one more each turn.
    """
    num_missing = num_short_blocks - view.num_returning_blocks
    num_nvme_blocks = view.num_nvme_blocks
    chosen: list[tuple[int, PreemptionKind]] = []
    for candidate in view.preemptible:
        if num_missing <= 0:
            break
        kind = cheaper_preemption(view, candidate, num_nvme_blocks)
        if kind is PreemptionKind.MOVE:
            num_nvme_blocks -= candidate.num_own_blocks
        chosen.append((candidate.request_id, kind))
        num_missing -= candidate.num_own_blocks
    return tuple(chosen)


def recompute_youngest(view: SchedulerView) -> tuple[tuple[int, PreemptionKind], ...]:
    """As vLLM has it: the youngest give up their KV until this turn's rows have their blocks."""
    num_needed = sum(row.num_new_blocks for row in view.ready)
    num_missing = num_needed - view.num_allocatable_blocks - view.num_returning_blocks
    chosen: list[tuple[int, PreemptionKind]] = []
    for candidate in view.preemptible:
        if num_missing <= 0:
            break
        chosen.append((candidate.request_id, PreemptionKind.RECOMPUTE))
        num_missing -= candidate.num_own_blocks
    return tuple(chosen)


def cheaper_preemption(
    view: SchedulerView, candidate: PreemptibleRequest, num_nvme_blocks: int
) -> PreemptionKind:
    """MOVE if NVME has room and writing and reading the KV beats computing it again."""
    if not 0 < candidate.num_own_blocks <= num_nvme_blocks:
        return PreemptionKind.RECOMPUTE
    if move_seconds(view, candidate) < recompute_seconds(view, candidate):
        return PreemptionKind.MOVE
    return PreemptionKind.RECOMPUTE


def move_seconds(view: SchedulerView, candidate: PreemptibleRequest) -> float:
    num_bytes = candidate.num_own_blocks * view.slot_bytes
    return num_bytes / view.demote_bytes_per_second + num_bytes / view.promote_bytes_per_second


def recompute_seconds(view: SchedulerView, candidate: PreemptibleRequest) -> float:
    """Predicted time of its prefill, alone, in steps of ``token_target`` tokens."""
    full_steps, rest = divmod(candidate.num_computed_tokens, view.token_target)
    seconds = 0.0
    if full_steps:
        mean_kv_tokens = candidate.num_computed_tokens // 2
        seconds += full_steps * view.predict(BatchShape(view.token_target, mean_kv_tokens, 1))
    if rest:
        seconds += view.predict(BatchShape(rest, candidate.num_computed_tokens, 1))
    return seconds
