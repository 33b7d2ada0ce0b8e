"""Decoding all that fits the cards, from a host buffer that refills them as sequences end."""

from __future__ import annotations

import heapq
from collections import deque

import msgspec

from pipemax_worker.performance.batch_shape import BatchShape
from pipemax_worker.performance.step_cost import StepCost
from pipemax_worker.planner.rivals.sequences import HostBuffer, Sequence

_WATERMARK_SHARE = 0.01
"""Of the cards' room that an arrival leaves free for growth: vLLM's own."""


class DecodeRates(msgspec.Struct, frozen=True):
    """Of one card. ``slack_tokens``: what a sequence's last block leaves empty, on average."""

    capacity_tokens: int
    max_num_requests: int
    kv_bytes_per_token: int
    load_bytes_per_second: float
    store_bytes_per_second: float
    slack_tokens: int


class DecodeTotals(msgspec.Struct):
    """What all phases came to."""

    num_steps: int = 0
    num_tokens: int = 0
    num_swapped_out: int = 0
    num_loaded_tokens: int = 0
    num_stored_tokens: int = 0
    compute_seconds: float = 0.0
    stall_seconds: float = 0.0


class _Running(msgspec.Struct, gc=False):
    """At round r it has ``base + r`` positions and ends at round ``end``."""

    base: int
    end: int

    def at(self, num_rounds: int) -> Sequence:
        return Sequence(self.base + num_rounds, self.end - num_rounds)


class BufferedDecode:
    """One step at a time. A sequence runs once its KV is loaded; loads go beside the steps. Where
    growth exceeds the room the youngest goes back to the buffer."""

    def __init__(self, cost: StepCost, rates: DecodeRates) -> None:
        self.totals = DecodeTotals()
        self._cost = cost
        self._rates = rates
        self._buffer = HostBuffer(0)
        self._now = self._link_free = 0.0
        self._num_rounds = self._num_held = self._num_kv = 0
        self._loading: deque[tuple[float, Sequence]] = deque()
        self._running: dict[int, _Running] = {}
        self._ends: list[tuple[int, int]] = []
        self._next_id = 0

    def run(self, begin: float, buffer: HostBuffer, until_tokens: int | None) -> float:
        """Decode from ``begin`` on; returns when it ended. With ``until_tokens`` it ends as soon as
        the buffer is empty and no more than that is alive: what runs then is in the buffer again.
        """
        self._buffer, self._now = buffer, begin
        self._link_free = max(self._link_free, begin)
        while True:
            self._order_loads()
            self._take_loaded()
            if self._is_drained(until_tokens):
                return self._put_back()
            if self._running:
                self._step()
            elif self._loading:
                self._wait_for_load()
            else:
                return self._now

    def _is_drained(self, until_tokens: int | None) -> bool:
        if until_tokens is None or self._buffer or self._loading:
            return False
        return self._num_kv <= until_tokens

    # --- arrivals

    def _order_loads(self) -> None:
        rates, buffer = self._rates, self._buffer
        room = rates.capacity_tokens * (1 - _WATERMARK_SHARE)
        while buffer and len(self._running) + len(self._loading) < rates.max_num_requests:
            num_tokens = buffer.first.num_tokens + rates.slack_tokens
            is_alone = not self._running and not self._loading
            if self._num_held + num_tokens > room and not is_alone:
                break
            sequence = buffer.take()
            self._num_held += num_tokens
            num_bytes = sequence.num_tokens * rates.kv_bytes_per_token
            self._link_free = max(self._link_free, self._now)
            self._link_free += num_bytes / rates.load_bytes_per_second
            self.totals.num_loaded_tokens += sequence.num_tokens
            self._loading.append((self._link_free, sequence))

    def _take_loaded(self) -> None:
        while self._loading and self._loading[0][0] <= self._now:
            _, sequence = self._loading.popleft()
            base = sequence.num_tokens - self._num_rounds
            running = _Running(base, self._num_rounds + sequence.num_remaining)
            self._running[self._next_id] = running
            heapq.heappush(self._ends, (running.end, self._next_id))
            self._next_id += 1
            self._num_kv += sequence.num_tokens

    def _wait_for_load(self) -> None:
        landed = self._loading[0][0]
        self.totals.stall_seconds += landed - self._now
        self._now = landed

    # --- a step

    def _step(self) -> None:
        num_rows, totals = len(self._running), self.totals
        self._num_kv += num_rows
        self._num_held += num_rows
        seconds = self._cost.stage_seconds(BatchShape(num_rows, self._num_kv, num_rows), 0)
        self._now += seconds
        self._num_rounds += 1
        totals.compute_seconds += seconds
        totals.num_steps += 1
        totals.num_tokens += num_rows
        while self._ends and self._ends[0][0] <= self._num_rounds:
            _, ended_id = heapq.heappop(self._ends)
            if ended_id in self._running:  # not swapped out before
                self._leave(ended_id)
        while self._num_held > self._rates.capacity_tokens and len(self._running) > 1:
            self._swap_out_youngest()

    def _swap_out_youngest(self) -> None:
        sequence = self._leave(next(reversed(self._running)))
        self._buffer.give_back([sequence])
        self.totals.num_swapped_out += 1
        self.totals.num_stored_tokens += sequence.num_tokens

    def _leave(self, running_id: int) -> Sequence:
        sequence = self._running.pop(running_id).at(self._num_rounds)
        self._num_kv -= sequence.num_tokens
        self._num_held -= sequence.num_tokens + self._rates.slack_tokens
        return sequence

    def _put_back(self) -> float:
        """All that runs goes to the host; the phase ends when the last of it is there."""
        alive = [self._leave(running_id) for running_id in list(self._running)]
        self._ends.clear()
        self._buffer.give_back(alive)
        num_tokens = sum(sequence.num_tokens for sequence in alive)
        self.totals.num_stored_tokens += num_tokens
        num_bytes = num_tokens * self._rates.kv_bytes_per_token
        seconds = num_bytes / self._rates.store_bytes_per_second
        self.totals.stall_seconds += seconds
        return self._now + seconds
