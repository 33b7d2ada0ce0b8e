"""Prompts in chunks down a pipeline, their KV streamed to the host behind each stage."""

from __future__ import annotations

from collections import deque

import msgspec

from pipemax_worker.performance.batch_shape import BatchShape, count_prompt_pairs
from pipemax_worker.performance.step_cost import StepCost, all_stage_seconds
from pipemax_worker.planner.rivals.sequences import HostBuffer, Sequence
from pipemax_worker.planner.simulated_pipeline import HopSpeed


class PrefillRates(msgspec.Struct, frozen=True):
    """``kv_bytes_per_token`` and ``store_bytes_per_second`` of each stage."""

    max_batched_tokens: int
    hop: HopSpeed
    kv_bytes_per_token: tuple[int, ...]
    store_bytes_per_second: float


class PrefillPhase(msgspec.Struct, frozen=True):
    """What one phase came to. ``compute_seconds``: of each stage."""

    end: float
    num_chunks: int
    num_tokens: int
    compute_seconds: tuple[float, ...]


class PipelinePrefill:
    """Fills the host buffer. Each prompt yields its first output token."""

    def __init__(self, cost: StepCost, rates: PrefillRates) -> None:
        self._cost = cost
        self._rates = rates

    def run(
        self, begin: float, waiting: deque[tuple[int, int]], buffer: HostBuffer
    ) -> PrefillPhase:
        """Takes (prompt, output) from ``waiting`` while ``buffer`` has room for the next."""
        prompts: list[int] = []
        while waiting and buffer.has_room(waiting[0][0]):
            prompt, output = waiting.popleft()
            prompts.append(prompt)
            if output > 1:
                buffer.add(Sequence(prompt, output - 1))
        return self._time(begin, cut_into_chunks(prompts, self._rates.max_batched_tokens))

    def _time(self, begin: float, chunks: list[BatchShape]) -> PrefillPhase:
        """A stage takes up a chunk when it is free and has its hidden states; the phase ends when
        the last KV has reached the host."""
        num_stages = self._cost.num_stages
        free, stored = [begin] * num_stages, [begin] * num_stages
        compute = [0.0] * num_stages
        for shape in chunks:
            arrival = begin
            hop_seconds = self._rates.hop.seconds(shape.num_tokens)
            for stage, seconds in enumerate(all_stage_seconds(self._cost, shape)):
                free[stage] = max(free[stage], arrival) + seconds
                compute[stage] += seconds
                arrival = free[stage] + hop_seconds
                num_bytes = shape.num_tokens * self._rates.kv_bytes_per_token[stage]
                copy_seconds = num_bytes / self._rates.store_bytes_per_second
                stored[stage] = max(stored[stage], free[stage]) + copy_seconds
        num_tokens = sum(shape.num_tokens for shape in chunks)
        return PrefillPhase(max(stored), len(chunks), num_tokens, tuple(compute))


def cut_into_chunks(prompts: list[int], max_batched_tokens: int) -> list[BatchShape]:
    """Prompts one after another, each cut where a chunk is full. ``num_requests``: prompts that end
    in the chunk, whose first token is sampled."""
    chunks: list[BatchShape] = []
    num_tokens = num_kv = num_ends = num_pairs = 0
    for prompt in prompts:
        num_done = 0
        while num_done < prompt:
            num_new = min(prompt - num_done, max_batched_tokens - num_tokens)
            num_tokens += num_new
            num_kv += num_done + num_new
            num_pairs += count_prompt_pairs(num_done, num_new)
            num_done += num_new
            num_ends += num_done == prompt
            if num_tokens == max_batched_tokens:
                chunks.append(BatchShape(num_tokens, num_kv, num_ends, num_pairs))
                num_tokens = num_kv = num_ends = num_pairs = 0
    if num_tokens:
        chunks.append(BatchShape(num_tokens, num_kv, num_ends, num_pairs))
    return chunks
