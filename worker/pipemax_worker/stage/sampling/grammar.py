"""Grammar masks of many requests, computed off the critical path.

A mask is begun right after a token was sampled (or the request was added), in a background thread
whose library code does not hold the GIL, and waited for when the request is sampled again: in
between lie the other micro-batches and the request's own forward. One thread owns a request for
life, so its tokens are taken in order; the sampler's thread only submits and waits.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pipemax_worker.contract.grammar import Grammar
from pipemax_worker.stage.sampling.matcher import (
    CompiledGrammars,
    GrammarMatcher,
    SharedTokenizer,
    TokenMask,
)

MAX_THREADS = 4

STACK_BYTES = 64 << 20
"""The library's compiler is recursive. The driver has compiled every grammar with less stack."""


class GrammarMasks:
    """``wait_seconds``: how long sampling has stood still for masks, in all."""

    def __init__(self, tokenizer_file: Path | None, vocab_size: int) -> None:
        tokenizer = SharedTokenizer(tokenizer_file, vocab_size)
        num_cores = len(os.sched_getaffinity(0))
        num_threads = min(MAX_THREADS, max(1, num_cores // 2))
        workers = [_Worker(tokenizer) for _ in range(num_threads)]
        self._next_worker = itertools.cycle(workers)
        self._requests: dict[int, _GrammarRequest] = {}
        self.wait_seconds = 0.0

    def add(
        self,
        request_id: int,
        grammar: Grammar,
        stop_token_ids: Sequence[int],
        output_token_ids: Sequence[int],
    ) -> None:
        """Begin a request, or begin it anew, with the output that it already has."""
        worker = next(self._next_worker)
        matcher = GrammarMatcher(grammar, stop_token_ids, worker.compiled)
        request = _GrammarRequest(worker, matcher)
        worker.submit([(request, output_token_ids)])
        self._requests[request_id] = request

    def remove(self, request_id: int) -> None:
        """Forget a request; one without a grammar is ignored."""
        self._requests.pop(request_id, None)

    def wait(self, request_ids: Sequence[int]) -> dict[int, TokenMask]:
        """The masks of those requests that have a grammar, by row."""
        pending = {
            row: self._requests[request_id]
            for row, request_id in enumerate(request_ids)
            if request_id in self._requests
        }
        if not pending:
            return {}
        start = time.perf_counter()
        masks = {row: request.mask() for row, request in pending.items()}
        self.wait_seconds += time.perf_counter() - start
        return masks

    def advance(self, sampled: Iterable[tuple[int, int]]) -> None:
        """Begin the next masks; ``sampled`` has request ids, with a grammar or not, and tokens."""
        batches: dict[_Worker, list[tuple[_GrammarRequest, Sequence[int]]]] = {}
        for request_id, token_id in sampled:
            request = self._requests.get(request_id)
            if request is not None:
                batches.setdefault(request.worker, []).append((request, (token_id,)))
        for worker, batch in batches.items():
            worker.submit(batch)


class _GrammarRequest:
    def __init__(self, worker: _Worker, matcher: GrammarMatcher) -> None:
        self.worker = worker
        self.matcher = matcher
        self.batch: Future[list[TokenMask]] = Future()
        self.place = 0  # in the batch

    def mask(self) -> TokenMask:
        return self.batch.result()[self.place]


class _Worker:
    """One background thread and the grammars that it has compiled."""

    def __init__(self, tokenizer: SharedTokenizer) -> None:
        self.compiled = CompiledGrammars(tokenizer)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammar")
        before = threading.stack_size(STACK_BYTES)
        try:
            self._executor.submit(int)  # starts the thread, with this stack
        finally:
            threading.stack_size(before)

    def submit(self, batch: list[tuple[_GrammarRequest, Sequence[int]]]) -> None:
        advanced = [(request.matcher, token_ids) for request, token_ids in batch]
        masks = self._executor.submit(_advance, advanced)
        for place, (request, _) in enumerate(batch):
            request.batch, request.place = masks, place


def _advance(batch: list[tuple[GrammarMatcher, Sequence[int]]]) -> list[TokenMask]:
    return [matcher.advance(token_ids) for matcher, token_ids in batch]
