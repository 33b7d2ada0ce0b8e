"""Fused prefill in a time-balanced pipeline, with rotation.

Each turn takes every decoding request of the micro-batch whose KV is on the device, and fills the
step with prompt tokens up to the token target: below the knee of the step cost they are nearly free
(design, section 2). New requests join the micro-batch whose predicted step is no longer than the
mean. What the next micro-batch lacks is loaded beside the step, as much as fits the *prefetch
budget*, predicted step time times measured bandwidth (PipeMax, arXiv 2605.02189); what does not fit
skips its turn, so nothing ever stalls, and the least recently run go first, so nobody starves.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pipemax_worker.engine.policies.composing import (
    Chunks,
    Preemptions,
    admit_prompts,
    choose_rows,
    cut_chunks,
    derive_shape,
    fits_at_its_peak,
    num_short_blocks,
    prefetch_budget_bytes,
)
from pipemax_worker.engine.preemption import choose_preemptions
from pipemax_worker.engine.view import Composition, ReadyRequest, SchedulerView
from pipemax_worker.performance.batch_shape import BatchShape

_BALANCE_TOLERANCE = 1e-6


class FusedPolicy:
    """See the module. Stateless."""

    uses_pool = False
    balances = True
    order_window = 1024

    def compose(self, view: SchedulerView, now: float) -> Composition:
        preempt, decode, admit, chunks = choose_rows(self, view)
        budget_bytes = prefetch_budget_bytes(view, derive_shape(view, decode, chunks))
        return Composition(
            admit=admit,
            chunks=chunks,
            decode=tuple([row.request_id for row in decode]),
            prefetch=choose_prefetch(view, budget_bytes),
            preempt=preempt,
            prefetch_budget_bytes=budget_bytes,
        )

    def choose_preemptions(self, view: SchedulerView) -> Preemptions:
        return choose_preemptions(view, num_short_blocks(view))

    def choose_prompts(
        self,
        view: SchedulerView,
        rows: Sequence[ReadyRequest],
        num_decode: int,
        *,
        may_admit: bool = True,
    ) -> tuple[tuple[int, ...], Chunks]:
        chunks = cut_chunks(view, rows, view.token_target - num_decode, num_decode)
        if not may_admit:
            return (), chunks
        admit, more = _admit(view, num_decode, chunks)
        return admit, chunks + more

    def budget_bytes(self, view: SchedulerView, shape: BatchShape) -> int:
        return prefetch_budget_bytes(view, shape)


def _admit(view: SchedulerView, num_decode: int, chunks: Chunks) -> tuple[tuple[int, ...], Chunks]:
    """Waiting requests, in order, while tokens, rows, blocks and the balance allow it, and while
    what all of them are expected to grow to fits at its peak."""
    num_left = view.token_target - num_decode - sum(num_tokens for _, num_tokens in chunks)
    waiting = view.waiting[: _num_admissible(view)]
    return admit_prompts(
        view, waiting, num_left, num_decode + len(chunks), partial(fits_at_its_peak, view)
    )


def _num_admissible(view: SchedulerView) -> int:
    """How many may join this micro-batch: no more than its even share of all that is left, or a
    short job would fill one micro-batch only. Where room is scarce, none if its step is longer than
    the mean already: whom to give the room to is what balances then. Where there is room for all,
    filling every step to the target does."""
    seconds = view.micro_batch_seconds
    if not seconds:
        return 0
    mean_seconds = sum(seconds) / len(seconds)
    is_long = seconds[view.micro_batch_id] > mean_seconds * (1 + _BALANCE_TOLERANCE)
    if is_long and not _has_room_for_all(view):
        return 0
    even_share = -(-view.num_unfinished // len(seconds))
    return max(0, even_share - view.micro_batch_sizes[view.micro_batch_id])


def _has_room_for_all(view: SchedulerView) -> bool:
    """Whether every micro-batch could fill its step with new prompts and their outputs."""
    first = view.waiting[0]
    num_prompt_tokens = max(1, first.num_computed_tokens + first.num_remaining_tokens)
    num_each = -(-view.token_target // num_prompt_tokens)
    needed = [(num_prompt_tokens, first.num_expected_tokens)]
    needed *= num_each * len(view.micro_batch_seconds)
    num_blocks = len(needed) * first.num_blocks
    if num_blocks > view.num_unreserved_blocks:
        return False
    return view.forecast(needed) <= view.num_live_blocks * view.block_tokens


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
