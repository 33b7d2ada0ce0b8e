"""What users have today: vLLM's V1 scheduler with pipeline parallelism, as a policy.

Chunked prefill with decode first, first come first served, a budget of ``max_batched_tokens`` a
step. No balancing: whichever micro-batch comes back is given all that may run, so requests bunch
together (vllm-project/vllm #28270). A request is admitted as soon as its prompt has blocks; when
blocks run short the youngest is preempted and computed again. Nothing is offloaded.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipemax_worker.engine.policies.composing import (
    Chunks,
    Preemptions,
    admit_prompts,
    choose_rows,
    cut_chunks,
)
from pipemax_worker.engine.preemption import recompute_youngest
from pipemax_worker.engine.view import Composition, ReadyRequest, SchedulerView
from pipemax_worker.performance.batch_shape import BatchShape


class VLLMPolicy:
    """See the module. Stateless."""

    uses_pool = False
    balances = False
    order_window = 0

    def compose(self, view: SchedulerView, now: float) -> Composition:
        preempt, decode, admit, chunks = choose_rows(self, view)
        return Composition(
            admit=admit,
            chunks=chunks,
            decode=tuple(row.request_id for row in decode),
            preempt=preempt,
        )

    def choose_preemptions(self, view: SchedulerView) -> Preemptions:
        return recompute_youngest(view)

    def choose_prompts(
        self,
        view: SchedulerView,
        rows: Sequence[ReadyRequest],
        num_decode: int,
        *,
        may_admit: bool = True,
    ) -> tuple[tuple[int, ...], Chunks]:
        chunks = cut_chunks(view, rows, view.max_batched_tokens - num_decode, num_decode)
        if not may_admit:
            return (), chunks
        num_left = view.max_batched_tokens - num_decode - sum(num for _, num in chunks)
        num_rows = num_decode + len(chunks)
        admit, more = admit_prompts(view, view.waiting, num_left, num_rows, lambda _: True)
        return admit, chunks + more

    def budget_bytes(self, view: SchedulerView, shape: BatchShape) -> int:
        return 0
