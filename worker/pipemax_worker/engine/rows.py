"""Turns chosen requests into the rows of a message: blocks, positions, what is stored after."""

from __future__ import annotations

from collections.abc import Sequence

from pipemax_worker.contract.messages import ScheduledRequest
from pipemax_worker.contract.transfers import pack_int32
from pipemax_worker.engine.config import SchedulerConfig
from pipemax_worker.engine.lifecycle import Lifecycle
from pipemax_worker.engine.message import MessageDraft
from pipemax_worker.engine.request_state import RequestState
from pipemax_worker.engine.rotation import Rotation
from pipemax_worker.kvcache.block_manager import BlockManager


class RowBuilder:
    """Fills a draft. Rows for which no blocks can be had are left out: they skip their turn."""

    def __init__(
        self,
        config: SchedulerConfig,
        manager: BlockManager,
        lifecycle: Lifecycle,
        rotation: Rotation,
    ) -> None:
        self._block_tokens = config.block_tokens
        self._manager = manager
        self._lifecycle = lifecycle
        self._rotation = rotation

    def build(
        self,
        draft: MessageDraft,
        chosen: Sequence[tuple[RequestState, int]],
        micro_batch_id: int,
        turn: int,
    ) -> None:
        """Rows for ``chosen``, (request, number of tokens), as far as there are blocks."""
        ids = [state.request_id for state, _ in chosen]
        keep = set(ids)
        num_computed, block_tokens = 0, self._block_tokens
        num_decoding = num_kv_tokens = 0
        for index, (state, num_tokens) in enumerate(chosen):
            num_blocks = len(state.block_ids)
            if len(state.on_device) != num_blocks:
                continue  # an older row has taken its blocks
            if state.num_computed_tokens + num_tokens > num_blocks * block_tokens:
                num_tokens = self._allocate(
                    state, num_tokens, micro_batch_id, keep
                ) or self._allocate(state, 1, micro_batch_id, set(ids[: index + 1]))
            if num_tokens == 1 and (end := self._decode(draft, state, turn)):
                num_decoding += 1
                num_kv_tokens += end
            elif num_tokens:
                self._add(draft, state, num_tokens, turn)
                num_computed += num_tokens
        draft.count_decoding(num_decoding, num_kv_tokens)
        num_computed += num_decoding
        self._lifecycle.micro_batches.note_computed(micro_batch_id, num_computed)
        self._lifecycle.accounting.num_batched_tokens += num_computed
        self._commit_and_store(draft)

    def _allocate(
        self, state: RequestState, num_tokens: int, micro_batch_id: int, keep: set[int]
    ) -> int:
        """How many of ``num_tokens`` have a block now: all, or as many as blocks could be had."""
        block_tokens = self._block_tokens
        while num_tokens > 0:
            num_blocks = state.num_new_blocks(num_tokens, block_tokens)
            if num_blocks <= 0:
                return num_tokens
            if self._rotation.allocate(state, num_blocks, micro_batch_id, keep):
                self._lifecycle.admission.note_growth(state)
                return num_tokens
            num_held_tokens = len(state.block_ids) * block_tokens - state.num_computed_tokens
            num_tokens = num_held_tokens + (num_blocks // 2) * block_tokens
        return 0

    def _decode(self, draft: MessageDraft, state: RequestState, turn: int) -> int:
        """``_add`` for a request that takes its next output and nothing else; returns its positions
        now, and 0, with nothing done, for any other. The hot path: some microseconds a row, 256
        rows a step."""
        start, known = state.num_computed_tokens, len(state.token_ids)
        if (
            start + 1 != known + state.num_unknown_tokens
            or start < state.num_prompt_tokens
            or start < state.num_ever_computed
            or not state.is_known_to_stages
        ):
            return 0
        last = len(state.block_ids) - 1
        num_filled = start + 1 - last * self._block_tokens
        if num_filled <= 0:
            return 0
        slots = state.packed_slots
        if slots is None:
            slots = self._lifecycle.residency.packed_slots(state)
        token_ids = None if start >= known else pack_int32(state.token_ids[start:])
        row = ScheduledRequest(state.request_id, start, 1, token_ids, slots, True)
        draft.rows.append(row)
        draft.states.append(state)
        self._manager.mark_filled(state.block_ids[last], num_filled)
        state.num_computed_tokens = state.num_ever_computed = start + 1
        state.num_in_flight += 1
        state.num_unknown_tokens += 1
        state.last_turn = turn
        return start + 1

    def _add(self, draft: MessageDraft, state: RequestState, num_tokens: int, turn: int) -> None:
        start = state.num_computed_tokens
        end = start + num_tokens
        slots = state.packed_slots
        if slots is None:
            slots = self._lifecycle.residency.packed_slots(state)
        needs_sample = draft.add_row(state, num_tokens, slots)
        if start < state.num_prompt_tokens or start < state.num_ever_computed:
            self._lifecycle.accounting.note_prefill(state, num_tokens)
        block_tokens, block_ids = self._block_tokens, state.block_ids
        for index in range(start // block_tokens, len(block_ids)):
            self._manager.mark_filled(
                block_ids[index], min(block_tokens, end - index * block_tokens)
            )
        state.num_computed_tokens = end
        if end > state.num_ever_computed:
            state.num_ever_computed = end
        state.num_in_flight += 1
        state.num_unknown_tokens += needs_sample
        state.last_turn = turn

    def _commit_and_store(self, draft: MessageDraft) -> None:
        """Index what these rows fill, for later messages, and write it through to HOST."""
        full: list[int] = []
        block_tokens = self._block_tokens
        for state in draft.states:
            num_full_blocks = state.num_computed_tokens // block_tokens
            if num_full_blocks > state.num_stored_blocks:
                full += state.block_ids[state.num_stored_blocks : num_full_blocks]
                state.num_stored_blocks = num_full_blocks
                self._lifecycle.sharing.commit(state)
        job = self._manager.order_store(full)
        if job is not None:
            draft.stores.append(job)
