"""Builds what the policy sees of one turn."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nlargest, nsmallest
from itertools import islice
from operator import attrgetter

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.engine.config import HostEviction, SchedulerConfig
from pipemax_worker.engine.lifecycle import Lifecycle
from pipemax_worker.engine.micro_batches import MicroBatch
from pipemax_worker.engine.request_state import RequestState, ready_states
from pipemax_worker.engine.view import (
    LackingRequest,
    PolicyState,
    PooledRequest,
    PreemptibleRequest,
    ReadyRequest,
    SchedulerView,
    WaitingRequest,
)
from pipemax_worker.kvcache.block_manager import BlockManager
from pipemax_worker.performance.batch_shape import BatchShape, Estimator
from pipemax_worker.performance.link import LinkEstimator

_MAX_LACKING = 64
_MAX_PREEMPTIBLE = 8
_MAX_POOLED = 128
_EMPTY = BatchShape(0, 0, 0)
LEAST_RECENTLY_RUN = attrgetter("last_turn", "request_id")


class ViewBuilder:
    """Reads the scheduler's state; changes nothing."""

    def __init__(
        self,
        config: SchedulerConfig,
        manager: BlockManager,
        lifecycle: Lifecycle,
        estimator: Estimator,
        links: LinkEstimator,
        uses_pool: bool = False,
    ) -> None:
        self._config = config
        self._manager = manager
        self._lifecycle = lifecycle
        self._estimator = estimator
        self._links = links
        self._uses_pool = uses_pool
        # Properties of the configuration, which add up over all stages.
        self._slot_bytes = config.slot_bytes
        self._token_target = config.token_target
        self._static_prefetch_bytes = config.static_prefetch_bytes

    def build(self, micro_batch_id: int, state: PolicyState) -> SchedulerView | None:
        """None if there is nobody to choose from: nobody can run or be admitted."""
        lifecycle = self._lifecycle
        ready = self._ready(lifecycle.micro_batches[micro_batch_id])
        num_leaving = lifecycle.transit.num_leaving_blocks
        waiting = lifecycle.admission.candidates(num_leaving)
        if not ready and not waiting:
            return None
        following = lifecycle.micro_batches.next_with_requests(micro_batch_id)
        num_needed = sum([row.num_new_blocks for row in ready])
        is_short = num_needed > lifecycle.residency.num_allocatable()
        preemptible = self._preemptible() if is_short else ()
        return self._show(micro_batch_id, ready, waiting, preemptible, following, state)

    def build_beside_steady_rows(
        self,
        micro_batch_id: int,
        others: Iterable[RequestState],
        waiting: tuple[WaitingRequest, ...],
        *,
        may_preempt: bool = False,
    ) -> SchedulerView:
        """``build`` for a ``SteadyPolicy``: of the micro-batch's members that can run it shows
        ``others`` alone, with all that need a block among them if blocks are short."""
        ready = self._describe_ready(others)
        preemptible = self._preemptible() if may_preempt else ()
        return self._show(micro_batch_id, ready, waiting, preemptible, None, PolicyState())

    def _show(
        self,
        micro_batch_id: int,
        ready: tuple[ReadyRequest, ...],
        waiting: tuple[WaitingRequest, ...],
        preemptible: tuple[PreemptibleRequest, ...],
        following: MicroBatch | None,
        state: PolicyState,
    ) -> SchedulerView:
        lifecycle, config = self._lifecycle, self._config
        num_leaving = lifecycle.transit.num_leaving_blocks
        return SchedulerView(
            micro_batch_id=micro_batch_id,
            ready=ready,
            waiting=waiting,
            lacking=self._lacking(following),
            preemptible=preemptible,
            token_target=self._token_target,
            max_batched_tokens=config.max_batched_tokens,
            max_num_requests=config.max_num_requests,
            block_tokens=config.block_tokens,
            slot_bytes=self._slot_bytes,
            num_unfinished=lifecycle.num_unfinished,
            num_unreserved_blocks=lifecycle.admission.num_unreserved_blocks - num_leaving,
            num_allocatable_blocks=lifecycle.residency.num_allocatable(),
            num_returning_blocks=lifecycle.num_returning_blocks,
            num_nvme_blocks=self._manager.num_available_nvme_slots,
            micro_batch_sizes=lifecycle.micro_batches.sizes,
            micro_batch_seconds=self._weights() if waiting else (),
            load_bytes_per_second=self._links.bandwidth(Tier.HOST, Tier.DEVICE),
            demote_bytes_per_second=self._links.bandwidth(Tier.HOST, Tier.NVME),
            promote_bytes_per_second=self._links.bandwidth(Tier.NVME, Tier.HOST),
            predict=self._estimator.predict,
            num_held_blocks=len(lifecycle.residency.held),
            num_device_blocks=config.geometry.num_device_slots,
            num_live_blocks=config.num_live_blocks,
            pool=self._pool(following) if self._uses_pool else (),
            next_resident=_resident_shape(following) if self._uses_pool else _EMPTY,
            next_micro_batch_id=None if following is None else following.micro_batch_id,
            forecast=lifecycle.admission.forecast,
            state=state,
            static_prefetch_bytes=self._static_prefetch_bytes,
            balances_counts=config.balances_counts,
        )

    def _weights(self) -> tuple[float, ...]:
        """What policies even out."""
        micro_batches = self._lifecycle.micro_batches
        if self._config.balances_counts:
            return tuple(map(float, micro_batches.sizes))
        return micro_batches.seconds()

    def _ready(self, micro_batch: MicroBatch) -> tuple[ReadyRequest, ...]:
        """The hot path: once for every row of every turn."""
        states = ready_states(micro_batch.resident.values(), self._config.run_ahead)
        states.sort(key=LEAST_RECENTLY_RUN)
        return self._describe_ready(states)

    def _describe_ready(self, states: Iterable[RequestState]) -> tuple[ReadyRequest, ...]:
        block_tokens = self._config.block_tokens
        return tuple(
            [
                ReadyRequest(
                    state.request_id,
                    len(state.token_ids)
                    + state.num_unknown_tokens
                    - (num_computed := state.num_computed_tokens),
                    num_computed,
                    num_computed // block_tokens + 1 - len(state.block_ids),
                    state.num_in_flight == 0,
                )
                for state in states
            ]
        )

    def _pool(self, following: MicroBatch | None) -> tuple[PooledRequest, ...]:
        """An even part from each micro-batch, so that a large pool costs no more than a small."""
        if following is None:
            return ()
        all_of_them = self._lifecycle.micro_batches
        num_each = max(1, _MAX_POOLED // len(all_of_them))
        others = [batch for batch in all_of_them if batch is not following]
        return tuple(
            PooledRequest(
                state.request_id,
                micro_batch.micro_batch_id,
                len(state.block_ids) - len(state.on_device),
                state.num_computed_tokens,
            )
            for micro_batch in (following, *others)
            for state in islice(micro_batch.lacking.values(), num_each)
            if state.num_in_flight == 0 and state.preemption is None
        )

    def _lacking(self, following: MicroBatch | None) -> tuple[LackingRequest, ...]:
        if following is None:
            return ()
        return tuple(
            LackingRequest(state.request_id, len(state.block_ids) - len(state.on_device))
            for state in islice(following.lacking.values(), _MAX_LACKING)
            if state.preemption is None
        )

    def _preemptible(self) -> tuple[PreemptibleRequest, ...]:
        """Parked requests that still hold HOST slots, then running ones as ``host_eviction`` has
        them, never the oldest of all: somebody must get through."""
        lifecycle = self._lifecycle
        parked = [self._describe_parked(state) for state in lifecycle.admission.parked()]
        return tuple(candidate for candidate in parked if candidate.num_own_blocks) + tuple(
            PreemptibleRequest(
                request_id=state.request_id,
                num_own_blocks=len(lifecycle.residency.own_block_ids(state)),
                num_computed_tokens=state.num_computed_tokens,
            )
            for state in self.victims()
        )

    def victims(self) -> list[RequestState]:
        """Running requests that may be preempted, the first choice first."""
        running = [state for batch in self._lifecycle.micro_batches for state in batch]
        oldest_id = min((state.request_id for state in running), default=-1)
        if self._config.host_eviction is HostEviction.LRU:
            victims = nsmallest(_MAX_PREEMPTIBLE, running, key=LEAST_RECENTLY_RUN)
        else:
            victims = nlargest(_MAX_PREEMPTIBLE, running, key=lambda state: state.request_id)
        return [s for s in victims if s.request_id != oldest_id and s.preemption is None]

    def _describe_parked(self, state: RequestState) -> PreemptibleRequest:
        own = self._lifecycle.residency.own_block_ids(state)
        num_on_host = sum(map(self._manager.is_on_host, own))
        return PreemptibleRequest(state.request_id, num_on_host, state.num_computed_tokens)


def _resident_shape(micro_batch: MicroBatch | None) -> BatchShape:
    if micro_batch is None:
        return _EMPTY
    resident = micro_batch.resident.values()
    num_tokens = sum(state.num_computed_tokens for state in resident)
    return BatchShape(len(resident), num_tokens, len(resident))
