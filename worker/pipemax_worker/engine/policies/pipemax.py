"""The paper's scheduler: PipeMax (arXiv 2605.02189), after its sections on scheduling.

- *Phases by host KV*: prompts, written through to the host, until it holds ``_WATERMARK_SHARE`` of
  its room or nobody waits; then decoding until what is alive fits the GPUs; then prompts again.
- *Prefetch budget*: predicted time of the step being composed x measured bandwidth of the paged
  copies.
- *Two-stage greedy* for the next micro-batch: all that it retains on the GPU, then requests of the
  host pool. First by bytes: short ones (more requests a byte make a longer step and so a larger
  budget, until the target is reached), then swaps of single requests that bring the bytes to the
  budget and the predicted time to the target, the mean of the last N steps.
- What bandwidth does not suffice for stays in the pool; nothing waits.

The pool is what ``SchedulerView.pool`` shows of it. Where the paper leaves a number open, the
constants below are ours. It says nothing of preemption: the youngest is moved or computed again.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipemax_worker.engine.policies.composing import (
    cut_chunks,
    decode_rows,
    derive_shape,
    num_short_blocks,
    prefetch_budget_bytes,
    rows_that_stay,
)
from pipemax_worker.engine.policies.host_pool import PoolTarget, choose_from_pool
from pipemax_worker.engine.policies.phases import prefill_turn
from pipemax_worker.engine.preemption import choose_preemptions
from pipemax_worker.engine.view import (
    Composition,
    Phase,
    PolicyState,
    ReadyRequest,
    SchedulerView,
    WaitingRequest,
)

_WATERMARK_SHARE = 0.9


class PipeMaxPolicy:
    """See the module. Its phase and the last steps' times are in ``SchedulerView.state``."""

    uses_pool = True
    balances = True
    order_window = 0

    def compose(self, view: SchedulerView, now: float) -> Composition:
        preempt = choose_preemptions(view, num_short_blocks(view))
        rows = rows_that_stay(view, preempt)
        if view.state.phase is Phase.PREFILL and not preempt:
            admit, chunks = prefill_turn(view, rows, lambda chosen: _is_below_mark(view, chosen))
            if chunks or admit:
                return Composition(admit=admit, chunks=chunks)
        decode = decode_rows(view, rows)
        chunks = cut_chunks(view, rows, view.max_batched_tokens - len(decode), len(decode))
        shape = derive_shape(view, decode, chunks)
        recent = _remember(view, view.weigh(shape) if shape.num_tokens else 0.0)
        budget_bytes = prefetch_budget_bytes(view, shape)
        transfer, prefetch = _build_next(view, budget_bytes, recent)
        return Composition(
            decode=tuple(row.request_id for row in decode),
            chunks=chunks,
            preempt=preempt,
            transfer=transfer,
            prefetch=prefetch,
            prefetch_budget_bytes=budget_bytes,
            state=PolicyState(_next_phase(view, rows), recent),
        )


def _is_below_mark(view: SchedulerView, chosen: Sequence[WaitingRequest]) -> bool:
    """Whether the host may take the prompts of ``chosen`` as well; someone always may run."""
    num_blocks = view.num_held_blocks + sum(waiting.num_blocks for waiting in chosen)
    if num_blocks <= _WATERMARK_SHARE * view.num_live_blocks:
        return True
    return len(chosen) == 1 and sum(view.micro_batch_sizes) == 0


def _next_phase(view: SchedulerView, rows: Sequence[ReadyRequest]) -> Phase:
    """Decoding goes on until what is alive fits the GPUs."""
    is_drained = view.num_held_blocks <= view.num_device_blocks
    if view.num_device_blocks >= view.num_live_blocks:  # no host tier to speak of
        is_drained = 2 * view.num_held_blocks <= view.num_device_blocks
    nobody_runs = sum(view.micro_batch_sizes) == 0 or not rows
    if view.waiting and (is_drained or nobody_runs):
        return Phase.PREFILL
    return Phase.DECODE


def _remember(view: SchedulerView, seconds: float) -> tuple[float, ...]:
    if seconds == 0.0:
        return view.state.recent_seconds
    return (*view.state.recent_seconds, seconds)[-len(view.micro_batch_sizes) :]


def _build_next(
    view: SchedulerView, budget_bytes: int, recent: tuple[float, ...]
) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
    """(transfers into the next micro-batch, what to load for it)."""
    following = view.next_micro_batch_id
    if following is None or not view.pool:
        return (), ()
    num_blocks = max(1, budget_bytes // view.slot_bytes)
    target_seconds = sum(recent) / len(recent) if recent else 0.0
    chosen = choose_from_pool(
        view.pool, num_blocks, PoolTarget(target_seconds, view.next_resident, view.weigh)
    )
    transfer = tuple(
        (entry.request_id, following) for entry in chosen if entry.micro_batch_id != following
    )
    prefetch, num_left = [], num_blocks
    for entry in chosen:
        num_loaded = min(entry.num_missing_blocks, num_left)
        prefetch.append((entry.request_id, num_loaded))
        num_left -= num_loaded
    return transfer, tuple(prefetch)
