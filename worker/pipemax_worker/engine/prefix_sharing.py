"""Blocks shared between requests with the same head, found through the prefix index."""

from __future__ import annotations

from pipemax_worker.engine.request_state import RequestState
from pipemax_worker.kvcache.block_manager import BlockManager
from pipemax_worker.kvcache.prefix_index import hash_block


class PrefixSharing:
    """Looks up, and commits, the blocks of requests.

    A block is committed when the message that fills it is composed, after all rows of that message:
    requests admitted into later messages find it, those of the same message do not. Hashes that a
    running prompt is about to commit are *expected*: a request that would compute the same block
    beside it is better admitted later.
    """

    def __init__(self, manager: BlockManager, block_tokens: int, is_enabled: bool) -> None:
        self._manager = manager
        self._block_tokens = block_tokens
        self.is_enabled = is_enabled
        self._expected: dict[bytes, int] = {}

    def find(self, state: RequestState) -> list[int]:
        """Blocks that hold the head of its known tokens, never all of them: the last token is
        computed in any case, since its logits are needed."""
        if not self.is_enabled:
            return []
        num_blocks = (len(state.token_ids) - 1) // self._block_tokens
        self._extend_hashes(state, num_blocks)
        return self._manager.lookup_prefix(state.block_hashes[:num_blocks])

    def is_expected(self, state: RequestState, num_found_blocks: int) -> bool:
        """Whether another request is about to compute the first block that was not found."""
        num_blocks = (len(state.token_ids) - 1) // self._block_tokens
        if not self.is_enabled or num_found_blocks >= num_blocks:
            return False
        return state.block_hashes[num_found_blocks] in self._expected

    def expect(self, state: RequestState) -> None:
        """The request is admitted: what it has not found it will compute."""
        for block_hash in state.block_hashes[len(state.block_ids) :]:
            self._expected.setdefault(block_hash, state.request_id)

    def forget(self, state: RequestState) -> None:
        """The request gives up its blocks, or its place."""
        for block_hash in state.block_hashes[state.num_committed_blocks :]:
            if self._expected.get(block_hash) == state.request_id:
                del self._expected[block_hash]

    def commit(self, state: RequestState) -> None:
        """Index its full blocks whose tokens are known."""
        if not self.is_enabled:
            return
        num_tokens = min(state.num_computed_tokens, len(state.token_ids))
        num_full_blocks = num_tokens // self._block_tokens
        if num_full_blocks <= state.num_committed_blocks:
            return
        self._extend_hashes(state, num_full_blocks)
        for index in range(state.num_committed_blocks, num_full_blocks):
            block_hash = state.block_hashes[index]
            self._manager.commit_hash(state.block_ids[index], block_hash)
            if self._expected.get(block_hash) == state.request_id:
                del self._expected[block_hash]
        state.num_committed_blocks = num_full_blocks

    def _extend_hashes(self, state: RequestState, num_blocks: int) -> None:
        hashes = state.block_hashes
        while len(hashes) < num_blocks:
            start = len(hashes) * self._block_tokens
            tokens = state.token_ids[start : start + self._block_tokens]
            hashes.append(hash_block(hashes[-1] if hashes else None, tokens))
