"""What users have today: vLLM's V1 scheduler with pipeline parallelism, as a policy.

Chunked prefill with decode first, first come first served, a budget of ``max_batched_tokens`` a
step. No balancing: whichever micro-batch comes back is given all that may run, so requests bunch
together (vllm-project/vllm #28270). A request is admitted as soon as its prompt has blocks; when
blocks run short the youngest is preempted and computed again. Nothing is offloaded.
"""

from __future__ import annotations

from pipemax_worker.engine.policies.composing import cut_chunks, decode_rows, rows_that_stay
from pipemax_worker.engine.preemption import recompute_youngest
from pipemax_worker.engine.view import Composition, SchedulerView


class VLLMPolicy:
    """See the module. Stateless."""

    uses_pool = False
    balances = False
    order_window = 0

    def compose(self, view: SchedulerView, now: float) -> Composition:
        preempt = recompute_youngest(view)
        rows = rows_that_stay(view, preempt)
        decode = decode_rows(view, rows)
        chunks = cut_chunks(view, rows, view.max_batched_tokens - len(decode), len(decode))
        admit, new_chunks = ((), ()) if preempt else _admit(view, len(decode), chunks)
        return Composition(
            admit=admit,
            chunks=chunks + new_chunks,
            decode=tuple(row.request_id for row in decode),
            preempt=preempt,
        )


def _admit(
    view: SchedulerView, num_decode: int, chunks: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    """In order, while there are tokens, rows and blocks for the prompt."""
    admit: list[int] = []
    new_chunks: list[tuple[int, int]] = []
    num_left = view.max_batched_tokens - num_decode - sum(num for _, num in chunks)
    num_rows_left = view.max_num_requests - num_decode - len(chunks)
    num_blocks_left = view.num_unreserved_blocks
    for waiting in view.waiting:
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
