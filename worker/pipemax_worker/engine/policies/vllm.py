"""What users have today: vLLM's V1 scheduler with pipeline parallelism, as a policy.

Chunked prefill with decode first, first come first served, a budget of ``max_batched_tokens`` a
step. No balancing: whichever micro-batch comes back is given all that may run, so requests bunch
together (vllm-project/vllm #28270). A request is admitted as soon as its prompt has blocks; when
blocks run short the youngest is preempted and computed again. Nothing is offloaded.
"""

from __future__ import annotations

from pipemax_worker.engine.policies.composing import (
    admit_prompts,
    cut_chunks,
    decode_rows,
    rows_that_stay,
)
from pipemax_worker.engine.preemption import recompute_youngest
from pipemax_worker.engine.view import Composition, SchedulerView
from pipemax_worker.performance.batch_shape import BatchShape


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
        num_left = view.max_batched_tokens - len(decode) - sum(num for _, num in chunks)
        num_rows = len(decode) + len(chunks)
        admit, new_chunks = (
            ((), ())
            if preempt
            else admit_prompts(view, view.waiting, num_left, num_rows, lambda _: True)
        )
        return Composition(
            admit=admit,
            chunks=chunks + new_chunks,
            decode=tuple(row.request_id for row in decode),
            preempt=preempt,
        )

    def admits(self, view: SchedulerView, num_rows: int) -> bool:
        num_left = view.max_batched_tokens - num_rows
        return bool(admit_prompts(view, view.waiting, num_left, num_rows, lambda _: True)[0])

    def budget_bytes(self, view: SchedulerView, shape: BatchShape) -> int:
        return 0
