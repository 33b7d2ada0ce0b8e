"""Temporal disaggregation with work stealing: TD-Pipe (arXiv 2506.10470), without offload.

A long prefill phase, then a long decode phase, on the same pipeline.

- *Prefill until the predicted peak*: prompts are admitted while the KV that all requests will hold
  at its highest (``SchedulerView.forecast``; lengths as ``SchedulerConfig.length_prediction`` has
  them: an oracle, a predictor as good as theirs, or what finished outputs teach) fits
  ``_PEAK_SHARE`` of the cache. A message takes whole prompts until it has ``_PREFILL_TOKENS``.
- *Work stealing*: micro-batches above the mean number of requests hand their excess to the smallest
  one. Counts are balanced, not time. Theirs parks the excess until a micro-batch below the mean
  comes back; here it is that micro-batch's at once, which comes to the same counts.
- *Spatial against temporal intensity*: decoding ends when the rate it still reaches, over its peak,
  is below the share of a next prefill phase that is no bubble. The peak is that of 192 requests a
  micro-batch, as in their code, or of as many as the cache has room for: they had cards that hold
  so many; where none fit, decoding would never be worth its time, and phases as short as a prompt.
- Short of blocks the youngest is preempted and computed again.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipemax_worker.engine.policies.composing import (
    cut_chunks,
    decode_rows,
    fits_at_its_peak,
    rows_that_stay,
)
from pipemax_worker.engine.policies.phases import prefill_turn
from pipemax_worker.engine.preemption import recompute_youngest
from pipemax_worker.engine.view import (
    Composition,
    Phase,
    PolicyState,
    ReadyRequest,
    SchedulerView,
    WaitingRequest,
)
from pipemax_worker.performance.batch_shape import BatchShape, count_prompt_pairs

_PEAK_SHARE = 0.9
_FULL_BATCH = 192
_PREFILL_TOKENS = 192


class TDPipePolicy:
    """See the module. Its phase is in ``SchedulerView.state``."""

    uses_pool = False
    balances = False
    order_window = 0

    def compose(self, view: SchedulerView, now: float) -> Composition:
        preempt = recompute_youngest(view)
        rows = rows_that_stay(view, preempt)
        if view.state.phase is Phase.PREFILL and not preempt:
            admit, chunks = prefill_turn(view, rows, lambda chosen: _may_join(view, chosen))
            if chunks or admit:
                return Composition(admit=admit, chunks=chunks)
        decode = decode_rows(view, rows)
        transfer = steal_work(view, decode)
        moved = {request_id for request_id, _ in transfer}
        phase = Phase.PREFILL if _is_worth_a_prefill(view) else Phase.DECODE
        return Composition(
            decode=tuple(row.request_id for row in decode if row.request_id not in moved),
            chunks=cut_chunks(view, rows, view.max_batched_tokens - len(decode), len(decode)),
            preempt=preempt,
            transfer=transfer,
            state=PolicyState(phase),
        )


def _may_join(view: SchedulerView, chosen: Sequence[WaitingRequest]) -> bool:
    """Whether the message is not closed yet and the last one fits."""
    num_before = sum([waiting.num_remaining_tokens for waiting in chosen[:-1]])
    return num_before < _PREFILL_TOKENS and _fits(view, chosen)


def _fits(view: SchedulerView, chosen: Sequence[WaitingRequest]) -> bool:
    return fits_at_its_peak(view, chosen, _PEAK_SHARE)


def steal_work(view: SchedulerView, decode: Sequence[ReadyRequest]) -> tuple[tuple[int, int], ...]:
    """What this micro-batch has above the mean goes to those below it, the smallest first."""
    sizes = list(view.micro_batch_sizes)
    mean = -(-sum(sizes) // max(1, len(sizes)))
    num_excess = sizes[view.micro_batch_id] - mean
    idle = [row.request_id for row in decode if row.is_idle]
    transfer = []
    for request_id in idle[: max(0, num_excess)]:
        target = min(range(len(sizes)), key=lambda index: (sizes[index], index))
        transfer.append((request_id, target))
        sizes[target] += 1
    return tuple(transfer)


def _is_worth_a_prefill(view: SchedulerView) -> bool:
    """Compares what decoding has become with what a prefill phase would lose to bubbles."""
    if not view.waiting:
        return False
    num_tokens = _prefill_tokens(view)
    if num_tokens == 0:
        return False
    num_running = sum(view.micro_batch_sizes)
    if num_running == 0:
        return True
    mean_tokens = max(1, view.num_held_blocks * view.block_tokens // num_running)
    num_micro_batches = len(view.micro_batch_sizes)
    size = num_running / num_micro_batches  # stealing keeps them all near the mean
    room = view.num_live_blocks * view.block_tokens / mean_tokens / num_micro_batches
    peak = max(size, min(_FULL_BATCH, room))
    achieved = _decode_rate(view, size, mean_tokens) / _decode_rate(view, peak, mean_tokens)
    return achieved < 1.0 - _bubble_share(view, num_tokens)


def _prefill_tokens(view: SchedulerView) -> int:
    """Prompt tokens for which there is room now: the first waiting request's, as often as its whole
    size goes into the free blocks."""
    first = view.waiting[0]
    if not _fits(view, (first,)):
        return 0
    size = first.num_remaining_tokens + first.num_computed_tokens + first.num_expected_tokens
    num_free = view.num_live_blocks * view.block_tokens * _PEAK_SHARE - view.forecast(())
    return max(1, int(num_free // size)) * first.num_remaining_tokens


def _decode_rate(view: SchedulerView, num_requests: float, mean_tokens: int) -> float:
    """Tokens a second of a step with so many requests, on average."""
    num_rows = max(1, round(num_requests))
    return num_requests / view.predict(BatchShape(num_rows, num_rows * mean_tokens, num_rows))


def _bubble_share(view: SchedulerView, num_tokens: int) -> float:
    """Of a prefill phase: while its first chunk goes down the pipeline and its last one leaves it,
    the other stages wait."""
    num_stages = len(view.micro_batch_sizes)
    first_tokens = max(_PREFILL_TOKENS, view.waiting[0].num_remaining_tokens)
    chunk = min(num_tokens, first_tokens, view.max_batched_tokens)
    chunk_seconds = view.predict(BatchShape(chunk, chunk, 1, count_prompt_pairs(0, chunk)))
    num_chunks = -(-num_tokens // chunk)
    bubble = (num_stages - 1) * chunk_seconds
    return bubble / (bubble + num_chunks * chunk_seconds)
