"""The way out when nothing is in flight and nobody has all its blocks on the device.

With tiers that hold little more than one request this is normal: the least recently run request
becomes the *focus*; everything else leaves the device for it, and is stored first where it has no
other copy. Each time this ends with at least one row run, so the job always goes on.
"""

from __future__ import annotations

from pipemax_worker.engine.lifecycle import Lifecycle
from pipemax_worker.engine.message import MessageDraft
from pipemax_worker.engine.request_state import RequestState
from pipemax_worker.engine.rotation import Rotation
from pipemax_worker.kvcache.block_manager import BlockManager


class StallBreaker:
    def __init__(self, manager: BlockManager, lifecycle: Lifecycle, rotation: Rotation) -> None:
        self._manager = manager
        self._lifecycle = lifecycle
        self._rotation = rotation

    def make_room(self, draft: MessageDraft) -> RequestState | None:
        """Clear the device for one request and load it; returns it, None if nobody runs."""
        running = [state for micro_batch in self._lifecycle.micro_batches for state in micro_batch]
        if not running or not self._manager.has_host_tier:
            return None
        focus = min(running, key=lambda state: (state.last_turn, state.request_id))
        for state in running:
            if state.needs_fetch:
                self._lifecycle.fetch_again(state, draft)
        if focus.micro_batch_id is None:
            return focus  # on its way up from NVME
        self._lifecycle.residency.drop_all_but(focus)
        if not self._rotation.load(draft, self._lifecycle.residency.missing(focus)):
            self._rotation.store_all_tails(draft)
        return focus

    def describe(self, focus: RequestState | None) -> str:
        """Why nothing can be done: for the error that ends the run."""
        occupancy = ", ".join(
            f"{tier.name}: {slots.used} used, {slots.cached} cached, {slots.free} free"
            for tier, slots in self._manager.occupancy().items()
        )
        who = "none" if focus is None else f"{focus.request_id} with {len(focus.block_ids)} blocks"
        admission = self._lifecycle.admission
        return (
            "nothing is in flight and nothing can be scheduled: "
            f"{self._lifecycle.num_unfinished} unfinished requests "
            f"({len(admission.waiting)} waiting, {len(admission.returning)} preempted), "
            f"next in turn: {who}; slots: {occupancy}; "
            f"{admission.num_unreserved_blocks} blocks unreserved. This is a bug: please report it"
        )
