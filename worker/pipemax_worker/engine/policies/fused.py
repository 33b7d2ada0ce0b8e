"""Fused prefill in a time-balanced pipeline, with rotation.

Each turn takes every decoding request of the micro-batch whose KV is on the device, and fills the
step with prompt tokens up to the token target: below the knee of the step cost they are nearly free
(design, section 2). New requests join the micro-batch whose predicted step is no longer than the
mean. What the next micro-batch lacks is loaded beside the step, as much as fits the *prefetch
budget*, predicted step time times measured bandwidth (PipeMax, arXiv 2605.02189); what does not fit
skips its turn, so nothing ever stalls, and the least recently run go first, so nobody starves.
"""

from __future__ import annotations

from pipemax_worker.engine.preemption import choose_preemptions
from pipemax_worker.engine.request_state import PreemptionKind
from pipemax_worker.engine.view import Composition, ReadyRequest, SchedulerView
from pipemax_worker.performance.batch_shape import BatchShape

_BALANCE_TOLERANCE = 1e-6


class FusedPolicy:
    """See the module. Stateless."""

    def compose(self, view: SchedulerView, now: float) -> Composition:
        preempt = choose_preemptions(view, _num_short_blocks(view))
        rows = _without(view.ready, preempt)
        decode = [row for row in rows if row.num_remaining_tokens == 1]
        decode = decode[: min(view.max_batched_tokens, view.max_num_requests)]
        prompts = [row for row in rows if row.num_remaining_tokens > 1]
        chunks = _cut_chunks(view, prompts, len(decode))
        admit, new_chunks = ((), ()) if preempt else _admit(view, decode, chunks)
        chunks += new_chunks
        budget_bytes = prefetch_budget_bytes(view, derive_shape(view, decode, chunks))
        return Composition(
            admit=admit,
            chunks=chunks,
            decode=tuple(row.request_id for row in decode),
            prefetch=choose_prefetch(view, budget_bytes),
            preempt=preempt,
            prefetch_budget_bytes=budget_bytes,
        )


def _num_short_blocks(view: SchedulerView) -> int:
    """Blocks that this turn's rows cannot have: one a decode row at a border, one a prompt."""
    num_needed = sum(row.num_new_blocks for row in view.ready)
    return max(0, num_needed - view.num_allocatable_blocks)


def _without(
    rows: tuple[ReadyRequest, ...], preempt: tuple[tuple[int, PreemptionKind], ...]
) -> list[ReadyRequest]:
    preempted_ids = {request_id for request_id, _ in preempt}
    return [row for row in rows if row.request_id not in preempted_ids]


def _cut_chunks(
    view: SchedulerView, prompts: list[ReadyRequest], num_decode: int
) -> tuple[tuple[int, int], ...]:
    """In order; each takes what is left of the token target."""
    num_left = max(view.token_target - num_decode, 0)
    num_rows = num_decode
    chunks = []
    for row in prompts:
        if num_left <= 0 or num_rows >= view.max_num_requests:
            break
        num_tokens = min(row.num_remaining_tokens, num_left)
        chunks.append((row.request_id, num_tokens))
        num_left -= num_tokens
        num_rows += 1
    return tuple(chunks)


def _admit(
    view: SchedulerView, decode: list[ReadyRequest], chunks: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    """Waiting requests, in order, while tokens, rows, blocks and the balance allow it."""
    admit: list[int] = []
    new_chunks: list[tuple[int, int]] = []
    num_left = view.token_target - len(decode) - sum(num_tokens for _, num_tokens in chunks)
    num_rows_left = view.max_num_requests - len(decode) - len(chunks)
    num_blocks_left = view.num_unreserved_blocks
    for waiting in view.waiting[: _num_admissible(view)]:
        if waiting.num_blocks > num_blocks_left or num_left <= 0 or num_rows_left <= 0:
            break
        admit.append(waiting.request_id)
        num_blocks_left -= waiting.num_blocks
        if waiting.can_start:
            num_tokens = min(waiting.num_remaining_tokens, num_left)
            new_chunks.append((waiting.request_id, num_tokens))
            num_left -= num_tokens
            num_rows_left -= 1
    return tuple(admit), tuple(new_chunks)


def _num_admissible(view: SchedulerView) -> int:
    """How many may join this micro-batch: none if its step is longer than the mean already, and no
    more than its even share of all that is left, or a short job would fill one micro-batch only."""
    seconds = view.micro_batch_seconds
    if not seconds:
        return 0
    mean_seconds = sum(seconds) / len(seconds)
    if seconds[view.micro_batch_id] > mean_seconds * (1 + _BALANCE_TOLERANCE):
        return 0
    even_share = -(-view.num_unfinished // len(seconds))
    return max(0, even_share - view.micro_batch_sizes[view.micro_batch_id])


def derive_shape(
    view: SchedulerView, decode: list[ReadyRequest], chunks: tuple[tuple[int, int], ...]
) -> BatchShape:
    computed = {row.request_id: row.num_computed_tokens for row in view.ready}
    computed.update((row.request_id, row.num_computed_tokens) for row in view.waiting)
    num_tokens = len(decode) + sum(num_new for _, num_new in chunks)
    num_kv_tokens = num_tokens + sum(row.num_computed_tokens for row in decode)
    num_kv_tokens += sum(computed[request_id] for request_id, _ in chunks)
    return BatchShape(num_tokens, num_kv_tokens, len(decode) + len(chunks))


def prefetch_budget_bytes(view: SchedulerView, shape: BatchShape) -> int:
    """Bytes that one stage can load while it computes ``shape``."""
    return int(view.predict(shape) * view.load_bytes_per_second)


def choose_prefetch(view: SchedulerView, budget_bytes: int) -> tuple[tuple[int, int], ...]:
    """Requests in order while the budget lasts; the last may get a part of what it lacks, so that
    a link slower than one request a step makes progress and never stalls a step."""
    chosen: list[tuple[int, int]] = []
    num_left = max(1, budget_bytes // view.slot_bytes)
    for lacking in view.lacking:
        num_blocks = min(lacking.num_missing_blocks, num_left)
        chosen.append((lacking.request_id, num_blocks))
        num_left -= num_blocks
        if num_left <= 0:
            break
    return tuple(chosen)
