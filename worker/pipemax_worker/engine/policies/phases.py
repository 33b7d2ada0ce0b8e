"""What policies with separate prefill and decode phases share. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipemax_worker.engine.policies.composing import Chunks, cut_chunks
from pipemax_worker.engine.view import ReadyRequest, SchedulerView, WaitingRequest

Fits = Callable[[Sequence[WaitingRequest]], bool]


def admit_prompts(
    view: SchedulerView, num_tokens: int, num_rows: int, fits: Fits
) -> tuple[tuple[int, ...], Chunks]:
    """Waiting requests in order while ``num_tokens`` and rows last and ``fits`` says yes to all
    that were chosen so far. ``num_rows`` are taken."""
    chosen: list[WaitingRequest] = []
    chunks: list[tuple[int, int]] = []
    num_blocks_left = view.num_unreserved_blocks
    for waiting in view.waiting:
        if num_tokens <= 0 or num_rows >= view.max_num_requests:
            break
        if waiting.num_blocks > num_blocks_left or not fits((*chosen, waiting)):
            break
        chosen.append(waiting)
        num_blocks_left -= waiting.num_blocks
        if waiting.can_start:
            num_new_tokens = min(waiting.num_remaining_tokens, num_tokens)
            chunks.append((waiting.request_id, num_new_tokens))
            num_tokens -= num_new_tokens
            num_rows += 1
    return tuple(waiting.request_id for waiting in chosen), tuple(chunks)


def prefill_turn(
    view: SchedulerView, rows: Sequence[ReadyRequest], fits: Fits
) -> tuple[tuple[int, ...], Chunks]:
    """(requests to admit, chunks): prompts alone, those that were begun first."""
    chunks = cut_chunks(view, rows, view.max_batched_tokens, 0)
    num_left = view.max_batched_tokens - sum(num_tokens for _, num_tokens in chunks)
    admit, new_chunks = admit_prompts(view, num_left, len(chunks), fits)
    return admit, chunks + new_chunks
