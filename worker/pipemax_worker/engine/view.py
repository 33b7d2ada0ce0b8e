"""What a policy sees and what it answers: frozen values, a turn each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from pipemax_worker.engine.request_state import PreemptionKind
from pipemax_worker.performance.batch_shape import BatchShape


class ReadyRequest(msgspec.Struct, frozen=True):
    """A request of this turn's micro-batch that can run now: its KV is on the device.

    num_remaining_tokens   1: a decode step; more: a prompt, or KV to be computed again.
    num_new_blocks         to allocate for one more token.
    """

    request_id: int
    num_remaining_tokens: int
    num_computed_tokens: int
    num_new_blocks: int


class WaitingRequest(msgspec.Struct, frozen=True):
    """A request that could be admitted, those that return from preemption first.

    num_remaining_tokens   to compute, prefix hits left out.
    num_blocks             to reserve: its own now and its expected growth.
    can_start              False: some of its KV is on HOST or NVME and must be loaded first.
    """

    request_id: int
    num_remaining_tokens: int
    num_computed_tokens: int
    num_blocks: int
    can_start: bool


class LackingRequest(msgspec.Struct, frozen=True):
    """A request of the next micro-batch with blocks to load, least recently run first."""

    request_id: int
    num_missing_blocks: int


class PreemptibleRequest(msgspec.Struct, frozen=True):
    """A running request, youngest first. ``num_own_blocks`` would be free without it."""

    request_id: int
    num_own_blocks: int
    num_computed_tokens: int


class SchedulerView(msgspec.Struct, frozen=True):
    """The state of one turn.

    num_unreserved_blocks    room for admissions: capacity less what running requests may grow to.
    num_allocatable_blocks   that can be allocated now without preempting anyone.
    num_returning_blocks     soon free, of requests that are being preempted.
    num_nvme_blocks          that preempted requests may take.
    micro_batch_sizes        requests of each micro-batch; ``micro_batch_seconds``: predicted steps,
                             empty if nobody waits.
    num_unfinished           requests, waiting and parked ones included.
    preemptible              empty unless blocks run short.
    *_bytes_per_second       measured on one stage's link.
    slot_bytes               of one block on one stage.
    """

    micro_batch_id: int
    ready: tuple[ReadyRequest, ...]
    waiting: tuple[WaitingRequest, ...]
    lacking: tuple[LackingRequest, ...]
    preemptible: tuple[PreemptibleRequest, ...]
    token_target: int
    max_batched_tokens: int
    max_num_requests: int
    block_tokens: int
    slot_bytes: int
    num_unfinished: int
    num_unreserved_blocks: int
    num_allocatable_blocks: int
    num_returning_blocks: int
    num_nvme_blocks: int
    micro_batch_sizes: tuple[int, ...]
    micro_batch_seconds: tuple[float, ...]
    load_bytes_per_second: float
    demote_bytes_per_second: float
    promote_bytes_per_second: float
    predict: Callable[[BatchShape], float]


class Composition(msgspec.Struct, frozen=True):
    """A policy's answer for one turn.

    admit      waiting requests that join this micro-batch, in order.
    chunks     (request, number of tokens) of prompts, admitted ones included.
    decode     requests that take one more token each.
    prefetch   (request, number of blocks) of the next micro-batch to load, in order. A request
               that gets fewer than it lacks is continued when its micro-batch is next again.
    preempt    requests that make room, and how.
    Rows for which no blocks can be had at the moment are left out of the message by the scheduler.
    """

    admit: tuple[int, ...] = ()
    chunks: tuple[tuple[int, int], ...] = ()
    decode: tuple[int, ...] = ()
    prefetch: tuple[tuple[int, int], ...] = ()
    preempt: tuple[tuple[int, PreemptionKind], ...] = ()
    prefetch_budget_bytes: int = 0


class Policy(Protocol):
    """Decides a turn. Pure: the same view and time give the same composition."""

    def compose(self, view: SchedulerView, now: float) -> Composition: ...
