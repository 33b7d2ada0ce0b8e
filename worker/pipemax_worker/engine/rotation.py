"""Makes room on the device, and loads what the next micro-batch lacks.

Everything that runs has a full copy on HOST, so eviction costs nothing. What goes first is what is
needed last: micro-batch t-1 has just run and returns after all others. Request by request, so that
few of them lack blocks, and the newest residents first, so that a stable part of each micro-batch
stays and the rest takes turns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.engine.config import SchedulerConfig
from pipemax_worker.engine.device_room import DeviceRoom
from pipemax_worker.engine.message import MessageDraft
from pipemax_worker.engine.micro_batches import MicroBatch, MicroBatches
from pipemax_worker.engine.request_state import RequestState
from pipemax_worker.engine.residency import Residency
from pipemax_worker.kvcache.block_manager import BlockManager


class Rotation:
    """Of one pipeline. Without a host tier nothing ever leaves the device and nothing is loaded."""

    def __init__(
        self,
        config: SchedulerConfig,
        manager: BlockManager,
        residency: Residency,
        micro_batches: MicroBatches,
    ) -> None:
        self._config = config
        self._manager = manager
        self._residency = residency
        self._room = DeviceRoom(manager, residency, micro_batches)
        self._micro_batches = micro_batches

    # --- room for the rows of this turn

    def allocate(
        self, state: RequestState, num_blocks: int, micro_batch_id: int, keep: Collection[int]
    ) -> bool:
        """Blocks for ``state``; the requests in ``keep`` lose nothing for it."""
        manager = self._manager
        if manager.has_host_tier and manager.num_available_host_slots < num_blocks:
            return False
        for keep_cached in (False, True):
            victims = self._victims(micro_batch_id, keep)
            has_room = self._room.make(num_blocks, victims, keep_cached=keep_cached)
            if has_room and self._residency.allocate(state, num_blocks):
                return True
        return False

    def allocate_each(self, sizes: Sequence[tuple[RequestState, int]]) -> bool:
        """So many blocks for each, if nobody must lose any for it; False, and nothing changed, if
        not."""
        return self._residency.allocate_each(sizes)

    def _victims(self, micro_batch_id: int, keep: Collection[int]) -> Iterator[RequestState]:
        """Incomplete ones first, then complete ones, then those that are being loaded; in each
        group those whose turn is farthest."""
        if not self._manager.has_host_tier:
            return
        order = self._farthest_first(micro_batch_id)
        loading: list[RequestState] = []
        for micro_batch in order:
            for state in _others(micro_batch.partly.values(), keep):
                if state.is_loading:
                    loading.append(state)
                else:
                    yield state
        for micro_batch in order:
            yield from _others(reversed(micro_batch.resident.values()), keep)
        yield from loading

    def _farthest_first(self, micro_batch_id: int) -> list[MicroBatch]:
        num = len(self._micro_batches)
        return [self._micro_batches[(micro_batch_id - offset) % num] for offset in range(num)]

    # --- loads for the next turn

    def prefetch(
        self,
        draft: MessageDraft,
        chosen: Sequence[tuple[RequestState, int]],
        micro_batch_id: int,
    ) -> None:
        """Load (request, number of blocks) of the micro-batch after ``micro_batch_id``, as far as
        room can be made without touching this turn's rows or whoever can run in the next."""
        if not chosen:
            return
        block_ids = self._wanted(chosen)
        keep = {state.request_id for state in draft.states}
        keep.update([state.request_id for state, _ in chosen])
        following = self._micro_batches.next_with_requests(micro_batch_id)
        if following is not None:
            keep.update(following.resident)
        for keep_cached in (False, True):  # cached blocks that are being stored cannot be evicted
            victims = self._victims(micro_batch_id, keep)
            self._room.make(len(block_ids), victims, keep_cached=keep_cached)
            num_fitting = self._residency.num_free(keep_cached)
            if self.load(draft, block_ids[:num_fitting]) or not block_ids:
                break
        for state, _ in chosen:
            state.is_loading = not state.is_resident

    def _wanted(self, chosen: Sequence[tuple[RequestState, int]]) -> list[int]:
        """The blocks to load, each once."""
        wanted: list[int] = []
        for state, num_blocks in chosen:
            wanted += self._residency.missing(state)[:num_blocks]
        return list(dict.fromkeys(wanted)) if self._residency.shared else wanted

    def load(self, draft: MessageDraft, block_ids: Sequence[int]) -> bool:
        """Order these loads; False if there are none or not enough room."""
        job = self._residency.load(block_ids) if block_ids else None
        if job is not None:
            draft.prefetch.append(job)
        return job is not None

    def is_loadable(self, state: RequestState) -> bool:
        return all(map(self._manager.is_on_host, self._residency.missing(state)))

    # --- unfilled blocks

    def store_tails(self, draft: MessageDraft, micro_batch_id: int) -> None:
        """Unfilled blocks stay on the device, one a request. Where requests that wait for their
        turn are many, these blocks are stored after each step as well, so that whole requests can
        leave."""
        num_device_slots = self._config.geometry.num_slots(Tier.DEVICE)
        if self._micro_batches.num_lacking <= self._config.max_tail_ratio * num_device_slots:
            return
        self._store_tails_of(draft, draft.states)
        self._store_tails_of(draft, self._micro_batches[micro_batch_id].lacking.values())

    def store_all_tails(self, draft: MessageDraft) -> None:
        """For a pipeline that is stuck: everything can leave once this is reported."""
        for micro_batch in self._micro_batches:
            self._store_tails_of(draft, micro_batch)

    def _store_tails_of(self, draft: MessageDraft, states: Iterable[RequestState]) -> None:
        tails: list[int] = []
        for state in states:
            is_tail = state.num_computed_tokens % self._config.block_tokens != 0
            if not is_tail or state.stored_tail_tokens == state.num_computed_tokens:
                continue
            if state.block_ids[-1] in state.on_device:
                state.stored_tail_tokens = state.num_computed_tokens
                tails.append(state.block_ids[-1])
        job = self._manager.order_store(tails)
        if job is not None:
            draft.stores.append(job)


def _others(states: Iterable[RequestState], keep: Collection[int]) -> list[RequestState]:
    """Those not kept. A copy, since taking blocks from them changes the lists."""
    return [state for state in states if state.request_id not in keep]
