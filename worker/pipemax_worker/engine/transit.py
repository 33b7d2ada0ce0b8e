"""Requests whose KV is on its way to NVME or back.

A preempted request that *moves* leaves in three steps, each of which waits for the reports of all
stages: its unfilled block is stored, its blocks are demoted, its device copies are dropped. It is
parked then. It returns by promoting its blocks; they are loaded when its turn comes, like any
other's. Blocks that other requests hold as well stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.engine.message import MessageDraft
from pipemax_worker.engine.request_state import RequestState
from pipemax_worker.engine.residency import Residency
from pipemax_worker.kvcache.block_manager import BlockManager
from pipemax_worker.kvcache.copies import CompletedCopy


@dataclass(slots=True)
class _Leaving:
    """``demote_job_id`` is set once the demote is ordered, ``is_demoted`` once it is reported."""

    state: RequestState
    demote_job_id: int | None = None
    is_demoted: bool = False


class Transit:
    """Moves requests a step a turn."""

    def __init__(self, manager: BlockManager, residency: Residency) -> None:
        self._manager = manager
        self._residency = residency
        self._leaving: dict[int, _Leaving] = {}
        self._arriving: dict[int, RequestState] = {}
        self._promoting: set[int] = set()

    @property
    def is_empty(self) -> bool:
        return not self._leaving and not self._arriving

    @property
    def num_leaving_blocks(self) -> int:
        """Blocks that hold a HOST slot and will give it up."""
        if not self._leaving:
            return 0
        return sum(len(leaving.state.block_ids) for leaving in self._leaving.values())

    def leave(self, state: RequestState) -> None:
        self._leaving[state.request_id] = _Leaving(state)

    def note_completed(self, copies: Iterable[CompletedCopy]) -> None:
        job_ids = set()
        for copy in copies:
            if copy.target is Tier.NVME:
                job_ids.add(copy.job_id)
            elif copy.source is Tier.NVME:
                self._promoting.difference_update(copy.block_ids)
        for leaving in self._leaving.values():
            leaving.is_demoted |= leaving.demote_job_id in job_ids

    # --- down

    def advance_leaving(self, draft: MessageDraft) -> tuple[list[RequestState], list[RequestState]]:
        """Order the next steps; returns who is parked now, and who finds no room on NVME."""
        parked: list[RequestState] = []
        stranded: list[RequestState] = []
        for leaving in list(self._leaving.values()):
            if leaving.is_demoted:
                self._drop_from_device(leaving.state)
                parked.append(leaving.state)
            elif leaving.demote_job_id is None and self._is_stored(leaving.state, draft):
                self._demote(leaving, draft)
                if leaving.demote_job_id is None:
                    stranded.append(leaving.state)
        for state in (*parked, *stranded):
            del self._leaving[state.request_id]
        return parked, stranded

    def _is_stored(self, state: RequestState, draft: MessageDraft) -> bool:
        """Whether every block has a copy below the device; orders those that have none."""
        unstored = [
            block_id
            for block_id in state.block_ids
            if block_id in state.on_device and not self._manager.is_on_host(block_id)
        ]
        job = self._manager.order_store(unstored)
        if job is not None:
            draft.stores.append(job)
        return not unstored

    def _demote(self, leaving: _Leaving, draft: MessageDraft) -> None:
        own = self._residency.own_block_ids(leaving.state)
        job = self._manager.order_demote([b for b in own if self._manager.is_on_host(b)])
        if job is not None:
            draft.background.append(job)
            leaving.demote_job_id = job.job_id

    def _drop_from_device(self, state: RequestState) -> None:
        for block_id in self._residency.own_block_ids(state):
            if block_id in state.on_device:
                self._residency.drop(block_id)

    # --- up

    def arrive(self, state: RequestState, draft: MessageDraft) -> bool:
        """Order its blocks up from NVME; False, and nothing ordered, if HOST has no room."""
        needed = self.unavailable(state)
        unordered = [block_id for block_id in needed if block_id not in self._promoting]
        if unordered:
            job = self._manager.order_promote(unordered)
            if job is None:
                return False
            draft.background.append(job)
            self._promoting.update(unordered)
        self._arriving[state.request_id] = state
        return True

    def lift(self, state: RequestState, draft: MessageDraft) -> None:
        """Order a HOST copy, if there is room, of what it has on DEVICE and NVME alone: without one
        a block cannot leave the device."""
        job = self._manager.order_promote(
            [block_id for block_id in state.on_device if not self._manager.is_on_host(block_id)]
        )
        if job is not None:
            draft.background.append(job)

    def unavailable(self, state: RequestState) -> list[int]:
        """Its blocks that can neither be read nor loaded."""
        return [
            block_id
            for block_id in state.block_ids
            if block_id not in state.on_device and not self._manager.is_on_host(block_id)
        ]

    def take_arrived(self) -> list[RequestState]:
        """Requests that can run or be loaded now."""
        arrived = [state for state in self._arriving.values() if not self.unavailable(state)]
        for state in arrived:
            del self._arriving[state.request_id]
        return arrived
