"""A request whose KV an earlier run has left on NVME begins as a parked one."""

from __future__ import annotations

from pipemax_worker.contract.request import RequestProgress
from pipemax_worker.engine.prefix_sharing import PrefixSharing
from pipemax_worker.engine.request_state import RequestState, RequestStatus
from pipemax_worker.engine.residency import Residency
from pipemax_worker.kvcache.block_manager import BlockManager


class Restoration:
    """Hands adopted blocks to the requests that they belong to."""

    def __init__(
        self,
        manager: BlockManager,
        residency: Residency,
        sharing: PrefixSharing,
        block_tokens: int,
    ) -> None:
        self._manager = manager
        self._residency = residency
        self._sharing = sharing
        self._block_tokens = block_tokens

    def restore(self, state: RequestState, progress: RequestProgress) -> bool:
        """Take hold of the KV that ``progress`` names; False if none of it is there (any more).

        Its full blocks can be found by prefix from now on, though not before: what nobody has
        claimed must not be moved about.
        """
        if progress.num_computed_tokens >= len(state.token_ids):
            self._manager.parked.release(progress.nvme_slots)
            return False
        block_ids = self._manager.parked.claim(progress.nvme_slots)
        if not block_ids:
            return False
        num_tokens = min(progress.num_computed_tokens, len(block_ids) * self._block_tokens)
        state.status = RequestStatus.PARKED
        state.num_shared_blocks = self._residency.hold(state, block_ids)
        state.num_computed_tokens = state.num_parked_tokens = num_tokens
        state.num_stored_blocks = num_tokens // self._block_tokens
        self._sharing.commit(state)
        return True
