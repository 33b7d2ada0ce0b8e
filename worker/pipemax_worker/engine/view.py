"""What a policy sees and what it answers: frozen values, a turn each."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from pipemax_worker.engine.request_state import PreemptionKind
from pipemax_worker.performance.batch_shape import BatchShape


class Phase(enum.Enum):
    """Of policies that keep prompts and decoding apart."""

    PREFILL = "prefill"
    DECODE = "decode"


class PolicyState(msgspec.Struct, frozen=True):
    """What a policy wants to know again at its next turn.

    recent_seconds   predicted steps of the last micro-batches, the newest last.
    """

    phase: Phase = Phase.PREFILL
    recent_seconds: tuple[float, ...] = ()


class ReadyRequest(msgspec.Struct, frozen=True, gc=False):
    """A request of this turn's micro-batch that can run now: its KV is on the device.

    num_remaining_tokens   1: a decode step; more: a prompt, or KV to be computed again.
    num_new_blocks         to allocate for one more token.
    is_idle                no row of it is in flight, so it may change its micro-batch.
    """

    request_id: int
    num_remaining_tokens: int
    num_computed_tokens: int
    num_new_blocks: int
    is_idle: bool = True


class WaitingRequest(msgspec.Struct, frozen=True, gc=False):
    """A request that could be admitted, those that return from preemption first.

    num_remaining_tokens   to compute, prefix hits left out.
    num_blocks             to reserve: its own now and its expected growth.
    can_start              False: some of its KV is on HOST or NVME and must be loaded first.
    num_expected_tokens    of output, still to come.
    """

    request_id: int
    num_remaining_tokens: int
    num_computed_tokens: int
    num_blocks: int
    can_start: bool
    num_expected_tokens: int = 0


class LackingRequest(msgspec.Struct, frozen=True, gc=False):
    """A request of the next micro-batch with blocks to load, least recently run first."""

    request_id: int
    num_missing_blocks: int


class PooledRequest(msgspec.Struct, frozen=True, gc=False):
    """A running request of any micro-batch whose KV is not all on the device, and of which no row
    is in flight."""

    request_id: int
    micro_batch_id: int
    num_missing_blocks: int
    num_computed_tokens: int


class PreemptibleRequest(msgspec.Struct, frozen=True, gc=False):
    """A running request, youngest first. ``num_own_blocks`` would be free without it."""

    request_id: int
    num_own_blocks: int
    num_computed_tokens: int


def _no_forecast(requests: Sequence[tuple[int, int]]) -> int:
    return sum(prompt + output for prompt, output in requests)


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
    num_held_blocks          by running requests, wherever they are.
    num_device_blocks        the device tier; ``num_live_blocks``: what requests can hold in all.
    pool                     for policies with ``uses_pool``: the next micro-batch's members first.
    next_resident            shape of a decode step of those of the next micro-batch that need no
                             load, for the same policies.
    next_micro_batch_id      the next in turn; None: nobody runs.
    forecast                 (prompt, output) tokens of requests to admit -> most tokens of KV held
                             at a time until all that runs, and they, are finished.
    static_prefetch_bytes    to load beside every step; None: what its predicted time allows.
    balances_counts          ``micro_batch_seconds`` are counts of requests, and so is ``weigh``.
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
    num_held_blocks: int = 0
    num_device_blocks: int = 0
    num_live_blocks: int = 0
    pool: tuple[PooledRequest, ...] = ()
    next_resident: BatchShape = BatchShape(0, 0, 0)
    next_micro_batch_id: int | None = None
    forecast: Callable[[Sequence[tuple[int, int]]], int] = _no_forecast
    state: PolicyState = PolicyState()
    static_prefetch_bytes: int | None = None
    balances_counts: bool = False

    def weigh(self, shape: BatchShape) -> float:
        """What micro-batches are evened out by: predicted seconds of a step."""
        return float(shape.num_requests) if self.balances_counts else self.predict(shape)


class Composition(msgspec.Struct, frozen=True):
    """A policy's answer for one turn.

    admit      waiting requests that join this micro-batch, in order.
    chunks     (request, number of tokens) of prompts, admitted ones included.
    decode     requests that take one more token each.
    prefetch   (request, number of blocks) of the next micro-batch to load, in order. A request
               that gets fewer than it lacks is continued when its micro-batch is next again.
    preempt    requests that make room, and how.
    transfer   (request, micro-batch) of idle requests that change their micro-batch, before
               anything else of this turn.
    state      for the next turn's view; None: as it was.
    Rows for which no blocks can be had at the moment are left out of the message by the scheduler.
    """

    admit: tuple[int, ...] = ()
    chunks: tuple[tuple[int, int], ...] = ()
    decode: tuple[int, ...] = ()
    prefetch: tuple[tuple[int, int], ...] = ()
    preempt: tuple[tuple[int, PreemptionKind], ...] = ()
    prefetch_budget_bytes: int = 0
    transfer: tuple[tuple[int, int], ...] = ()
    state: PolicyState | None = None


class Policy(Protocol):
    """Decides a turn. Pure: the same view and time give the same composition.

    uses_pool   whether ``SchedulerView.pool`` and ``next_resident`` are looked at.
    balances    whether the scheduler evens out the micro-batches when nobody waits any more.
    order_window   later requests that one may be overtaken by, because their outputs may become
                   longer; 0: first come, first served.
    """

    @property
    def order_window(self) -> int: ...

    @property
    def uses_pool(self) -> bool: ...

    @property
    def balances(self) -> bool: ...

    def compose(self, view: SchedulerView, now: float) -> Composition: ...


@runtime_checkable
class SteadyPolicy(Policy, Protocol):
    """A policy without a state of its own that always takes all rows that decode, and transfers
    nobody."""

    def budget_bytes(self, view: SchedulerView, shape: BatchShape) -> int:
        """The prefetch budget beside a step of ``shape``."""
        ...

    def choose_preemptions(self, view: SchedulerView) -> tuple[tuple[int, PreemptionKind], ...]:
        """``preempt`` of ``compose``; ``view.ready`` needs to hold only those that need blocks."""
        ...

    def choose_prompts(
        self,
        view: SchedulerView,
        rows: Sequence[ReadyRequest],
        num_decode: int,
        *,
        may_admit: bool = True,
    ) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        """(admit, chunks) of ``compose`` beside ``num_decode`` rows that decode, which need not be
        in ``view.ready``. ``rows``: those of it that nobody preempts."""
        ...
