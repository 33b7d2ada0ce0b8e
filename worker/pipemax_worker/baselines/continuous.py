"""transformers' continuous batching: the manager behind `generate_batch`.

`generate_batch` takes one output length for all requests; its manager takes one for each, so it
never generates a token that is not wanted.
"""

from __future__ import annotations

import time
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig

from pipemax_worker.baselines.orders import Answer, Order, Work

NEVER = -1
"""An end-of-sequence id that no token has."""

RESULT_TIMEOUT_SECONDS = 1.0


def run_continuous(model: Any, work: Work, order: Order) -> Answer:
    """Hand over all requests at once. Allocating the KV cache is not counted."""
    max_requests = min(order.max_requests or len(work.prompts), len(work.prompts))
    config = ContinuousBatchingConfig(
        page_size=order.page_size,
        num_blocks=num_blocks_for(work, max_requests, order.page_size),
        max_batch_tokens=max(order.max_batch_tokens, max_requests),
        max_requests_per_batch=max_requests,
    )
    generation = GenerationConfig(
        max_new_tokens=max(work.max_tokens), do_sample=False, eos_token_id=NEVER, pad_token_id=0
    )
    with model.continuous_batching_context_manager(
        generation_config=generation, continuous_batching_config=config
    ) as manager:
        start = time.perf_counter()
        answers = _generate(manager, work)
        seconds = time.perf_counter() - start
    return Answer(seconds, answers)


def num_blocks_for(work: Work, max_requests: int, page_size: int) -> int:
    """Enough for the ``max_requests`` longest, and a tenth more: its scheduler keeps some free.

    Not more: buffers and masks are sized by it.
    """
    lengths = (len(p) + n + 1 for p, n in zip(work.prompts, work.max_tokens, strict=True))
    blocks = sorted((-(-length // page_size) for length in lengths), reverse=True)
    return sum(blocks[:max_requests]) * 11 // 10 + 8


def _generate(manager: Any, work: Work) -> tuple[tuple[int, ...], ...]:
    for index, (prompt, num_tokens) in enumerate(zip(work.prompts, work.max_tokens, strict=True)):
        manager.add_request(
            list(prompt), request_id=str(index), max_new_tokens=num_tokens, eos_token_id=NEVER
        )
    answers: dict[int, tuple[int, ...]] = {}
    while len(answers) < len(work.prompts):
        result = manager.get_result(timeout=RESULT_TIMEOUT_SECONDS)
        if result is None:
            if not manager.is_running():
                raise RuntimeError("its generation thread ended before all requests were done")
        elif result.error is not None:
            raise RuntimeError(f"request {result.request_id}: {result.error}")
        elif result.is_finished():
            answers[int(result.request_id)] = tuple(result.generated_tokens)
    return tuple(answers[index] for index in range(len(work.prompts)))
