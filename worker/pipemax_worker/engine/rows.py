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
        rows = self._with_blocks(chosen, micro_batch_id)
        num_computed = self._decode(draft, rows, turn)
        self._lifecycle.micro_batches.note_computed(micro_batch_id, num_computed)
        self._lifecycle.accounting.num_batched_tokens += num_computed
        self._commit_and_store(draft)

    def _with_blocks(
        self, chosen: Sequence[tuple[RequestState, int]], micro_batch_id: int
    ) -> list[tuple[RequestState, int]]:
        """As much of ``chosen`` as has blocks."""
        block_tokens = self._block_tokens
        rows, short = [], []
        for row in chosen:
            state, num_tokens = row
            num_blocks = len(state.block_ids)
            if len(state.on_device) != num_blocks:
                continue
            if state.num_computed_tokens + num_tokens > num_blocks * block_tokens:
                short.append((state, state.num_new_blocks(num_tokens, block_tokens)))
            rows.append(row)
        if short:
            if not self._rotation.allocate_each(short):
                return self._make_room(chosen, micro_batch_id)
            for state, _ in short:
                self._lifecycle.admission.note_growth(state)
        return rows

    def _make_room(
        self, chosen: Sequence[tuple[RequestState, int]], micro_batch_id: int
    ) -> list[tuple[RequestState, int]]:
        """``_with_blocks`` where others must give some. Who comes first takes from who comes
        last."""
        block_tokens = self._block_tokens
        ids = [state.request_id for state, _ in chosen]
        keep = set(ids)
        rows = []
        for index, row in enumerate(chosen):
            state, num_tokens = row
            num_blocks = len(state.block_ids)
            if len(state.on_device) != num_blocks:
                continue  # an older row has taken its blocks
            if state.num_computed_tokens + num_tokens > num_blocks * block_tokens:
                num_tokens = self._allocate(
                    state, num_tokens, micro_batch_id, keep
                ) or self._allocate(state, 1, micro_batch_id, set(ids[: index + 1]))
                row = (state, num_tokens)
            if num_tokens:
                rows.append(row)
        return rows

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

    def _decode(
        self, draft: MessageDraft, rows: Sequence[tuple[RequestState, int]], turn: int
    ) -> int:
        """Add all rows; returns their tokens. What takes its next output and nothing else, nearly
        all of them, goes the short way: the hot path, a microsecond a row, 256 rows a step."""
        num_tokens = num_kv_tokens = 0
        block_tokens = self._block_tokens
        tails: list[int] = []
        fills: list[int] = []
        add_row, add_state = draft.rows.append, draft.states.append
        for state, num_new_tokens in rows:
            start, known, block_ids = state.num_computed_tokens, state.token_ids, state.block_ids
            num_filled = start + 1 - (len(block_ids) - 1) * block_tokens
            if (
                num_new_tokens != 1
                or start + 1 != len(known) + state.num_unknown_tokens
                or start < state.num_prompt_tokens
                or start < state.num_ever_computed
                or not state.is_known_to_stages
                or num_filled <= 0
            ):
                self._add(draft, state, num_new_tokens, turn)
                num_tokens += num_new_tokens
                continue
            slots = state.packed_slots
            if slots is None:
                slots = self._lifecycle.residency.packed_slots(state)
            token_ids = None if start >= len(known) else pack_int32((known[start],))
            add_row(ScheduledRequest(state.request_id, start, 1, token_ids, slots, True))
            add_state(state)
            tails.append(block_ids[-1])
            fills.append(num_filled)
            state.num_computed_tokens = state.num_ever_computed = start = start + 1
            num_kv_tokens += start
            state.num_in_flight += 1
            state.num_unknown_tokens += 1
            state.last_turn = turn
        self._manager.mark_all_filled(tails, fills)
        draft.count_decoding(len(tails), num_kv_tokens)
        return num_tokens + len(tails)

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
        first_block = start // block_tokens
        fills = [
            min(block_tokens, end - index * block_tokens)
            for index in range(first_block, len(block_ids))
        ]
        self._manager.mark_all_filled(block_ids[first_block:], fills)
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
