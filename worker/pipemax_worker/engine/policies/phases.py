"""What policies with separate prefill and decode phases share. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pipemax_worker.engine.policies.composing import Chunks, Fits, admit_prompts, cut_chunks
from pipemax_worker.engine.view import ReadyRequest, SchedulerView


def prefill_turn(
    view: SchedulerView, rows: Sequence[ReadyRequest], fits: Fits
) -> tuple[tuple[int, ...], Chunks]:
    """(requests to admit, chunks): prompts alone, those that were begun first."""
    chunks = cut_chunks(view, rows, view.max_batched_tokens, 0)
    num_left = view.max_batched_tokens - sum(num_tokens for _, num_tokens in chunks)
    admit, new_chunks = admit_prompts(view, view.waiting, num_left, len(chunks), fits)
    return admit, chunks + new_chunks
