"""Which KV is worth writing to NVME before a stop, and in which order. Pure."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import msgspec

from pipemax_worker.performance.batch_shape import BatchShape

PrefillCost = Callable[[int, int], float]
"""(first, end): predicted seconds to compute the positions ``first`` to ``end - 1`` once more."""


class ParkingCandidate(msgspec.Struct, frozen=True):
    """An unfinished request that holds KV: the blocks of positions 0..num_computed_tokens - 1."""

    request_id: int
    block_ids: tuple[int, ...]
    num_computed_tokens: int


def prefill_cost(predict: Callable[[BatchShape], float], token_target: int) -> PrefillCost:
    """The cost of positions within full steps, which other requests' tokens would help to fill."""

    def cost(first: int, end: int) -> float:
        mean_context = (first + end) // 2
        step_seconds = predict(BatchShape(token_target, token_target + mean_context, 1))
        return (end - first) / token_target * step_seconds

    return cost


def plan_parking(
    candidates: Iterable[ParkingCandidate],
    present: Collection[int],
    num_slots: int,
    block_tokens: int,
    cost: PrefillCost,
) -> tuple[int, ...]:
    """The blocks to copy to NVME, in order, at most ``num_slots``; those in ``present`` are there.

    Request by request, those first whose copies save the most recomputation for each block. Blocks
    that several share are copied, and count, once: after that their own blocks alone are weighed.
    Of each request its head goes first, so whoever runs out of time has still parked a prefix.
    """
    greedy = _Greedy(candidates, present, block_tokens, cost)
    chosen: list[int] = []
    for block_ids in greedy:
        chosen += block_ids
        if len(chosen) >= num_slots:
            break
    return tuple(chosen[:num_slots])


class _Greedy:
    """Yields each candidate's missing blocks, the best ratio of what is left first."""

    def __init__(
        self,
        candidates: Iterable[ParkingCandidate],
        present: Collection[int],
        block_tokens: int,
        cost: PrefillCost,
    ) -> None:
        self._candidates = {one.request_id: one for one in candidates}
        self._covered = set(present)
        self._block_tokens = block_tokens
        self._cost = cost
        self._ratios: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []
        self._holders: defaultdict[int, list[int]] = defaultdict(list)
        for one in self._candidates.values():
            for block_id in one.block_ids:
                self._holders[block_id].append(one.request_id)
            self._weigh(one)

    def __iter__(self) -> Iterator[list[int]]:
        while self._heap:
            negative_ratio, request_id = heapq.heappop(self._heap)
            if self._ratios.get(request_id) != -negative_ratio:
                continue  # weighed again since, or taken
            del self._ratios[request_id]
            missing = self._missing(self._candidates[request_id])
            self._covered.update(missing)
            for other_id in self._sharers(missing):
                if other_id in self._ratios:
                    self._weigh(self._candidates[other_id])
            yield missing

    def _sharers(self, block_ids: Sequence[int]) -> dict[int, None]:
        return {holder: None for block_id in block_ids for holder in self._holders[block_id]}

    def _missing(self, one: ParkingCandidate) -> list[int]:
        return [block_id for block_id in one.block_ids if block_id not in self._covered]

    def _weigh(self, one: ParkingCandidate) -> None:
        missing = self._missing(one)
        self._ratios.pop(one.request_id, None)
        if not missing:
            return
        first = one.block_ids.index(missing[0]) * self._block_tokens
        ratio = self._cost(first, one.num_computed_tokens) / len(missing)
        self._ratios[one.request_id] = ratio
        heapq.heappush(self._heap, (-ratio, one.request_id))
