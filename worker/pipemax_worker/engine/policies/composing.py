"""Steps of composing a turn that several policies share. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipemax_worker.engine.request_state import PreemptionKind
from pipemax_worker.engine.view import (
    ReadyRequest,
    SchedulerView,
    SteadyPolicy,
    WaitingRequest,
)
from pipemax_worker.performance.batch_shape import BatchShape, count_prompt_pairs

Chunks = tuple[tuple[int, int], ...]
Fits = Callable[[Sequence[WaitingRequest]], bool]
Preemptions = tuple[tuple[int, PreemptionKind], ...]


def num_short_blocks(view: SchedulerView) -> int:
    """Blocks that this turn's rows cannot have: one a decode row at a border, one a prompt."""
    num_needed = sum([row.num_new_blocks for row in view.ready])
    return max(0, num_needed - view.num_allocatable_blocks)


def rows_that_stay(view: SchedulerView, preempt: Preemptions) -> list[ReadyRequest]:
    if not preempt:
        return list(view.ready)
    preempted_ids = {request_id for request_id, _ in preempt}
    return [row for row in view.ready if row.request_id not in preempted_ids]


def choose_rows(
    policy: SteadyPolicy, view: SchedulerView
) -> tuple[Preemptions, list[ReadyRequest], tuple[int, ...], Chunks]:
    """(preempt, rows that decode, admit, chunks): all of a steady policy's turn but its loads."""
    preempt = policy.choose_preemptions(view)
    rows = rows_that_stay(view, preempt)
    decode = decode_rows(view, rows)
    admit, chunks = policy.choose_prompts(view, rows, len(decode), may_admit=not preempt)
    return preempt, decode, admit, chunks


def decode_rows(view: SchedulerView, rows: Sequence[ReadyRequest]) -> list[ReadyRequest]:
    """All that decode, as far as the stages' buffers go."""
    decode = [row for row in rows if row.num_remaining_tokens == 1]
    return decode[: min(view.max_batched_tokens, view.max_num_requests)]


def cut_chunks(
    view: SchedulerView, rows: Sequence[ReadyRequest], num_tokens: int, num_rows: int
) -> Chunks:
    """Prompts in order; each takes what is left of ``num_tokens``. ``num_rows`` are taken."""
    num_left = max(num_tokens, 0)
    chunks = []
    for row in rows:
        if row.num_remaining_tokens <= 1:
            continue
        if num_left <= 0 or num_rows >= view.max_num_requests:
            break
        num_taken = min(row.num_remaining_tokens, num_left)
        chunks.append((row.request_id, num_taken))
        num_left -= num_taken
        num_rows += 1
    return tuple(chunks)


def admit_prompts(
    view: SchedulerView,
    waiting: Sequence[WaitingRequest],
    num_tokens: int,
    num_rows: int,
    fits: Fits,
) -> tuple[tuple[int, ...], Chunks]:
    """(requests to admit, chunks): those of ``waiting`` in order while ``num_tokens`` and rows last
    and ``fits`` says yes to all that were chosen so far. ``num_rows`` are taken."""
    chosen: list[WaitingRequest] = []
    chunks: list[tuple[int, int]] = []
    num_blocks_left = view.num_unreserved_blocks
    for request in waiting:
        if num_tokens <= 0 or num_rows >= view.max_num_requests:
            break
        if request.num_blocks > num_blocks_left or not fits((*chosen, request)):
            break
        chosen.append(request)
        num_blocks_left -= request.num_blocks
        if request.can_start:
            num_new_tokens = min(request.num_remaining_tokens, num_tokens)
            chunks.append((request.request_id, num_new_tokens))
            num_tokens -= num_new_tokens
            num_rows += 1
    return tuple(request.request_id for request in chosen), tuple(chunks)


def fits_at_its_peak(
    view: SchedulerView, chosen: Sequence[WaitingRequest], room_share: float = 1.0
) -> bool:
    """Whether the KV of all that runs and of ``chosen`` fits into that share of the room until they
    are finished. Who runs alone always fits: the engine refuses what never can."""
    candidates = [
        (request.num_computed_tokens + request.num_remaining_tokens, request.num_expected_tokens)
        for request in chosen
    ]
    if view.forecast(candidates) <= room_share * view.num_live_blocks * view.block_tokens:
        return True
    return len(chosen) == 1 and view.forecast(()) == 0


def derive_shape(view: SchedulerView, decode: Sequence[ReadyRequest], chunks: Chunks) -> BatchShape:
    """Of a step with these rows."""
    num_tokens = num_kv_tokens = len(decode)
    num_kv_tokens += sum([row.num_computed_tokens for row in decode])
    num_pairs = 0
    if chunks:
        computed = {row.request_id: row.num_computed_tokens for row in view.ready}
        computed.update((row.request_id, row.num_computed_tokens) for row in view.waiting)
        for request_id, num_new_tokens in chunks:
            num_tokens += num_new_tokens
            num_kv_tokens += num_new_tokens + computed[request_id]
            num_pairs += count_prompt_pairs(computed[request_id], num_new_tokens)
    return BatchShape(num_tokens, num_kv_tokens, len(decode) + len(chunks), num_pairs)


def prefetch_budget_bytes(view: SchedulerView, shape: BatchShape) -> int:
    """Bytes that one stage can load while it computes ``shape``."""
    if view.static_prefetch_bytes is not None:
        return view.static_prefetch_bytes
    return int(view.predict(shape) * view.load_bytes_per_second)
