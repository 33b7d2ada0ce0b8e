"""The KV of unfinished requests goes to NVME before a stop, for a later run to adopt.

A request takes up what was adopted by ``restoration``. How it gets there at a stop: the blocks of a
plan are copied in batches, each stored where the device has the only copy and
demoted by the message after that. A batch is a quarter of a second of the link, two are under way
at most, and none is ordered that the measured bandwidth would not finish in time; the first is
small, since nothing may have been measured yet. What has landed counts, so whatever goes wrong a
request keeps the blocks from its head up to the first that is missing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from pipemax_worker.contract.geometry import Tier, num_blocks_for
from pipemax_worker.contract.request import Request, RequestProgress
from pipemax_worker.engine.config import SchedulerConfig
from pipemax_worker.engine.lifecycle import Lifecycle
from pipemax_worker.engine.message import MessageDraft
from pipemax_worker.engine.parking_plan import ParkingCandidate, plan_parking, prefill_cost
from pipemax_worker.engine.request_state import RequestState
from pipemax_worker.kvcache.block_manager import BlockManager
from pipemax_worker.kvcache.copies import CompletedCopy
from pipemax_worker.kvcache.parking import ParkedKV
from pipemax_worker.performance.batch_shape import Estimator
from pipemax_worker.performance.link import LinkEstimator

BATCH_SECONDS = 0.25
FIRST_BATCH_BYTES = 4 << 20
MAX_BATCHES_IN_FLIGHT = 2


class ParkedRequest(msgspec.Struct, frozen=True):
    """An unfinished request at a stop: what it is, and what need not be done again."""

    request: Request
    progress: RequestProgress


class Parking:
    """What an earlier run has left on NVME, and what this one leaves there at its stop.

    ``start`` and ``advance`` move KV down, once, when nothing else is scheduled any more.
    num_blocks  that they have copied.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        manager: BlockManager,
        lifecycle: Lifecycle,
        estimator: Estimator,
        links: LinkEstimator,
    ) -> None:
        self._config = config
        self._manager = manager
        self._lifecycle = lifecycle
        self._estimator = estimator
        self._links = links
        self._queue: deque[int] = deque()
        self._stored: list[int] = []
        self._was_left_out: set[int] = set()
        self._in_flight: dict[int, int] = {}
        self._num_landed = 0
        self._demote_seconds = 0.0
        self.num_blocks = 0

    # --- up: before requests come

    def adopt(self, parked: Iterable[RequestProgress]) -> None:
        """Before anything else: the KV that these name lies on NVME, for requests to come."""
        extents = [ParkedKV(one.nvme_slots, one.num_computed_tokens) for one in parked]
        self._manager.parked.adopt(extents, self._config.block_tokens)

    def release(self, parked: RequestProgress) -> None:
        """The request that this KV belongs to does not come. Of KV that is not there: nothing."""
        self._manager.parked.release(parked.nvme_slots)

    def still_adopted(self, parked: RequestProgress) -> RequestProgress:
        """What is left of KV that was adopted and that no request has come for."""
        num_blocks = self._manager.parked.num_valid(parked.nvme_slots)
        return self._with_slots(parked, parked.nvme_slots[:num_blocks])

    def _with_slots(self, progress: RequestProgress, slots: tuple[int, ...]) -> RequestProgress:
        block_tokens = self._config.block_tokens
        num_tokens = min(progress.num_computed_tokens, len(slots) * block_tokens)
        return msgspec.structs.replace(
            progress,
            num_computed_tokens=num_tokens,
            nvme_slots=slots[: num_blocks_for(num_tokens, block_tokens)],
        )

    # --- down: at a stop

    @property
    def is_done(self) -> bool:
        """Whether all that was ordered has landed, and nothing more will be ordered."""
        return not self._queue and not self._stored and not self._in_flight

    def start(self) -> None:
        """Plan. Nothing may be in flight."""
        candidates = [
            ParkingCandidate(state.request_id, tuple(state.block_ids), state.num_computed_tokens)
            for state in self._lifecycle.unfinished()
            if state.block_ids
        ]
        block_ids = {block_id for one in candidates for block_id in one.block_ids}
        cost = prefill_cost(self._estimator.predict, self._config.token_target)
        self._queue.extend(
            plan_parking(
                candidates,
                {b for b in block_ids if self._manager.parked.nvme_slots((b,))},
                self._manager.num_available_nvme_slots if self._manager.has_nvme_tier else 0,
                self._config.block_tokens,
                cost,
            )
        )

    def advance(self, draft: MessageDraft, seconds_left: float) -> None:
        """Order what comes next, if anything may be ordered now."""
        stored, self._stored = self._stored, []
        self._demote(draft, stored)
        if not self._queue or len(self._in_flight) >= self._max_in_flight:
            return
        num_blocks = self._num_blocks_in(seconds_left) - sum(self._in_flight.values())
        if num_blocks <= 0:
            self._queue.clear()  # what cannot end in time is not begun
            return
        batch_size = min(num_blocks, self._batch_blocks(), len(self._queue))
        batch = [self._queue.popleft() for _ in range(batch_size)]
        unstored = [b for b in batch if not self._manager.is_on_host(b)]
        job = self._manager.order_store(unstored)
        if job is not None:
            draft.stores.append(job)
        self._stored = unstored
        self._demote(draft, [b for b in batch if self._manager.is_on_host(b)])

    @property
    def _max_in_flight(self) -> int:
        return MAX_BATCHES_IN_FLIGHT if self._num_landed else 1

    def _demote(self, draft: MessageDraft, block_ids: list[int]) -> None:
        """A block for which HOST had no room is tried once more: demotes make room there."""
        on_host = [b for b in block_ids if self._manager.is_on_host(b)]
        for block_id in block_ids:
            if not self._manager.is_on_host(block_id) and block_id not in self._was_left_out:
                self._was_left_out.add(block_id)
                self._queue.append(block_id)
        job = self._manager.order_demote(on_host)
        if job is not None:
            draft.background.append(job)
            self._in_flight[job.job_id] = job.num_slots

    def _num_blocks_in(self, seconds: float) -> int:
        slot_bytes = self._config.slot_bytes
        store = self._links.copy_seconds(Tier.DEVICE, Tier.HOST, slot_bytes)
        if self._num_landed:  # the link's own estimate still holds its nominal rate
            demote = self._demote_seconds / self._num_landed
        else:
            demote = self._links.copy_seconds(Tier.HOST, Tier.NVME, slot_bytes)
        return int(seconds / (store + demote))

    def _batch_blocks(self) -> int:
        if not self._num_landed:
            return max(1, FIRST_BATCH_BYTES // self._config.slot_bytes)
        return max(1, self._num_blocks_in(BATCH_SECONDS))

    def note_completed(self, copies: Iterable[CompletedCopy]) -> None:
        for copy in copies:
            if self._in_flight.pop(copy.job_id, None) is not None:
                self._num_landed += len(copy.block_ids)
                self._demote_seconds += copy.seconds
                self.num_blocks += len(copy.block_ids) - len(copy.failed_block_ids)

    # --- what came of it

    def parked(self) -> tuple[ParkedRequest, ...]:
        """All unfinished requests that have outputs or KV on NVME, in order of arrival."""
        return tuple(
            ParkedRequest(state.request, progress)
            for state in self._lifecycle.unfinished()
            if (progress := self._progress(state)).output_token_ids or progress.nvme_slots
        )

    def _progress(self, state: RequestState) -> RequestProgress:
        progress = msgspec.structs.replace(
            state.progress(), num_computed_tokens=state.num_computed_tokens
        )
        return self._with_slots(progress, self._manager.parked.nvme_slots(state.block_ids))
