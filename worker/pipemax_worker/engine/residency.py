"""Which blocks each request holds and which of them are on the device.

``BlockManager`` owns the blocks; this keeps the other direction, block -> requests, so that a turn
costs what moves and not what exists. Blocks that a request holds leave the device only through
``drop``: every order hands ``held`` to the manager as protected, which leaves it the cached blocks
to evict.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from pipemax_worker.contract.transfers import CopyJob
from pipemax_worker.engine.micro_batches import MicroBatches
from pipemax_worker.engine.owed_blocks import OwedBlocks
from pipemax_worker.engine.request_state import RequestState, RequestStatus
from pipemax_worker.kvcache.block_manager import BlockManager

_PARKED = RequestStatus.PARKED
_SLOT_BYTES = 4  # of one packed slot


class Residency:
    """The blocks of all requests.

    held     block id -> the request that holds it, or one of them.
    shared   block id -> its holders by id, of blocks with more than one.
    owed     blocks that requests have without holding them (``lockstep``).
    """

    def __init__(self, manager: BlockManager, micro_batches: MicroBatches) -> None:
        self.held: dict[int, RequestState] = {}
        self.shared: dict[int, dict[int, RequestState]] = {}
        self.owed = OwedBlocks()
        self._manager = manager
        self._micro_batches = micro_batches

    # --- holding

    def allocate(self, state: RequestState, num_blocks: int) -> bool:
        """Append new blocks; False, and nothing changed, if there is no room for all of them."""
        block_ids = self._manager.allocate(num_blocks, self.held)
        if block_ids is None:
            return False
        self._append(state, block_ids, self._manager.device_slots(block_ids))
        return True

    def allocate_each(self, sizes: Sequence[tuple[RequestState, int]]) -> bool:
        """Append so many new blocks to each; False, and nothing changed, if they are not free."""
        nums = [num_blocks for _, num_blocks in sizes]
        if sum(nums) > self.num_free(keep_cached=True):
            return False
        block_ids = self._manager.allocate_each(nums)
        if block_ids is None:
            return False
        slots, first = self._manager.device_slots(block_ids), 0
        for state, num_blocks in sizes:
            end = first + num_blocks
            self._append(
                state, block_ids[first:end], slots[first * _SLOT_BYTES : end * _SLOT_BYTES]
            )
            first = end
        return True

    def _append(self, state: RequestState, block_ids: Sequence[int], slots: bytes) -> None:
        if state.packed_slots is not None:
            state.packed_slots += slots
        for block_id in block_ids:
            self.held[block_id] = state
            state.on_device[block_id] = None
        state.block_ids += block_ids

    def allocate_owed(self, state: RequestState) -> None:
        """Blocks that ``state`` has already, as far as counts go: there is always room for them."""
        num_blocks = self.owed.settle(state.request_id)
        if num_blocks:
            self.allocate(state, num_blocks)

    def holders(self, block_id: int) -> list[RequestState]:
        """Requests that hold the block, in the order in which they took it."""
        holders = self.shared.get(block_id)
        if holders is not None:
            return list(holders.values())
        holder = self.held.get(block_id)
        return [] if holder is None else [holder]

    def attach(self, state: RequestState, block_ids: Sequence[int]) -> int:
        """Append found blocks; returns how many of them other requests hold already."""
        self._manager.touch(block_ids)
        return self.hold(state, block_ids)

    def hold(self, state: RequestState, block_ids: Sequence[int]) -> int:
        """Append blocks whose references are the request's already; the same result."""
        num_shared = 0
        for block_id in block_ids:
            num_shared += self._join(state, block_id)
            if self._manager.is_on_device(block_id):
                state.on_device[block_id] = None
        state.block_ids += block_ids
        state.packed_slots = None
        return num_shared

    def _join(self, state: RequestState, block_id: int) -> bool:
        """Note one more holder; whether there was one."""
        first = self.held.setdefault(block_id, state)
        if first is state:
            return False
        holders = self.shared.setdefault(block_id, {first.request_id: first})
        holders[state.request_id] = state
        return True

    def _part(self, state: RequestState, block_id: int) -> None:
        """Note one holder less."""
        holders = self.shared.get(block_id)
        if holders is None:
            del self.held[block_id]
            return
        del holders[state.request_id]
        self.held[block_id] = next(iter(holders.values()))
        if len(holders) == 1:
            del self.shared[block_id]

    def release(self, state: RequestState, first_block: int = 0) -> None:
        """Give up the blocks from ``first_block`` on."""
        if self.owed.by_request:
            self.owed.settle(state.request_id)
        block_ids = state.block_ids[first_block:]
        for block_id in block_ids:
            self._part(state, block_id)
            state.on_device.pop(block_id, None)
        self._manager.free(block_ids)
        del state.block_ids[first_block:]
        state.packed_slots = None
        self._refresh(state)

    def own_block_ids(self, state: RequestState) -> list[int]:
        """Blocks that nobody else needs now: other holders are preempted or parked."""
        shared = self.shared
        return [
            block_id
            for block_id in state.block_ids
            if block_id not in shared
            or all(other is state or other.is_away for other in shared[block_id].values())
        ]

    # --- places

    def packed_slots(self, state: RequestState) -> bytes:
        """``device_slots`` of all its blocks; rebuilt only after one of them has moved."""
        if state.packed_slots is None:
            state.packed_slots = self._manager.device_slots(state.block_ids)
        return state.packed_slots

    def missing(self, state: RequestState) -> list[int]:
        """Its blocks that are not on the device, in order. Blocks leave head first, so nearly
        always they are all that come before those that are there."""
        on_device, block_ids = state.on_device, state.block_ids
        num_missing = len(block_ids) - len(on_device)
        if block_ids[num_missing:] == list(on_device):
            return block_ids[:num_missing]
        return [block_id for block_id in block_ids if block_id not in on_device]

    def load(self, block_ids: Sequence[int]) -> CopyJob | None:
        """Order the load of blocks that requests lack; None if there is no room."""
        job = self._manager.order_load(block_ids, self.held)
        if job is None:
            return None
        num_done = 0
        is_alone = not self.shared or self.shared.keys().isdisjoint(block_ids)
        if is_alone and job.num_slots == len(block_ids):
            num_done = self._note_runs(block_ids, job.target_slots)
        for holder in dict.fromkeys(chain.from_iterable(map(self.holders, block_ids[num_done:]))):
            self._note_loaded(holder)
        return job

    def _note_runs(self, block_ids: Sequence[int], slots: bytes) -> int:
        """Take note of blocks that were loaded into ``slots`` and have one holder each, as far as
        they come request by request and in order; returns how many that were."""
        num_done = 0
        while num_done < len(block_ids):
            holder = self.held[block_ids[num_done]]
            here = holder.block_ids
            num_missing = len(here) - len(holder.on_device)
            run = block_ids[num_done : num_done + num_missing]
            first = here.index(run[0]) if run else 0
            end = first + len(run)
            if not run or here[first:end] != run:
                break
            if len(run) < num_missing:
                self._note_loaded(holder)
            else:  # all its slots are known by these, or nearly so
                run_slots = slots[num_done * _SLOT_BYTES : (num_done + len(run)) * _SLOT_BYTES]
                head_slots = self._manager.device_slots(here[:first]) if first else b""
                tail_slots = self._manager.device_slots(here[end:])
                holder.packed_slots = head_slots + run_slots + tail_slots
                holder.on_device = dict.fromkeys(here)
                self._refresh(holder)
            num_done += len(run)
        return num_done

    def _note_loaded(self, holder: RequestState) -> None:
        """Some of its blocks, but for all one knows not all."""
        holder.on_device = dict.fromkeys(self._manager.present_on_device(holder.block_ids))
        self._refresh(holder)

    def _refresh(self, state: RequestState) -> None:
        micro_batch = self._micro_batches.of(state)
        if micro_batch is not None:
            micro_batch.refresh(state)

    # --- room on the device

    def num_allocatable(self) -> int:
        """Blocks to be had without preempting: rotation makes room on the device, nothing makes
        room on HOST."""
        if self._manager.has_host_tier:
            return self._manager.num_available_host_slots
        return self.num_free()

    def num_free(self, keep_cached: bool = False) -> int:
        """DEVICE slots to be had without taking any from a request."""
        num_free = self._manager.num_free_device_slots - self.owed.total
        if keep_cached:
            return num_free
        return num_free + self._manager.num_cached_device_slots

    def drop_all_but(self, state: RequestState) -> None:
        """Everything that is not ``state``'s and has another copy leaves the device. O(blocks)."""
        kept = set(state.block_ids)
        for block_id in self.held:
            if block_id in kept or not self._manager.is_on_device(block_id):
                continue
            is_parked = all(holder.status is _PARKED for holder in self.holders(block_id))
            if self._manager.is_on_host(block_id) or is_parked:
                self.drop(block_id)

    def drop(self, block_id: int) -> None:
        """The block leaves the device, whoever holds it. It must have another copy."""
        self._manager.drop_device((block_id,))
        for holder in self.holders(block_id):
            holder.on_device.pop(block_id, None)
            holder.packed_slots = None
            self._refresh(holder)

    def note_demoted(self, block_ids: Iterable[int]) -> None:
        """These blocks have left HOST: who runs and shares one of them must fetch it again."""
        for block_id in block_ids:
            for holder in self.holders(block_id):
                holder.needs_fetch = not holder.is_away

    def note_stored(self, block_ids: Iterable[int]) -> None:
        """HOST copies of these blocks count from now on: their holders can be victims again."""
        if self.shared:
            holders: Iterable[RequestState] = chain.from_iterable(map(self.holders, block_ids))
        else:
            holders = filter(None, map(self.held.get, block_ids))
        for holder in holders:
            micro_batch = self._micro_batches.of(holder)
            if micro_batch is not None and holder.request_id in micro_batch.lacking:
                micro_batch.partly[holder.request_id] = holder
