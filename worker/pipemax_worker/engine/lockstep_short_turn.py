"""A turn of the rows in lock-step, and of prompts beside them: where nothing else happens.

The policy is asked who is admitted and which prompts go on (``SteadyPolicy.choose_prompts``); rows
in lock-step are a number to it. Their own rows, those of prompts, are ``RowBuilder``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipemax_worker.engine.config import SchedulerConfig
from pipemax_worker.engine.lifecycle import Lifecycle
from pipemax_worker.engine.lockstep_group import Group, Row, RowKey, Turn
from pipemax_worker.engine.message import MessageDraft, Plan
from pipemax_worker.engine.request_state import RequestState
from pipemax_worker.engine.rows import RowBuilder
from pipemax_worker.engine.turn_counter import TurnCounter
from pipemax_worker.engine.view import SteadyPolicy, WaitingRequest
from pipemax_worker.engine.view_builder import ViewBuilder
from pipemax_worker.kvcache.block_manager import BlockManager
from pipemax_worker.performance.batch_shape import BatchShape

Chunks = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class LockstepParts:
    """Of the scheduler whose turns are taken. ``take_turn``: the scheduler's own."""

    config: SchedulerConfig
    manager: BlockManager
    lifecycle: Lifecycle
    views: ViewBuilder
    policy: SteadyPolicy
    rows: RowBuilder
    turns: TurnCounter
    take_turn: Callable[[int, float], tuple[Plan | None, bool]]


class ShortTurns:
    """See the module.

    last_shape   of the last of these turns; None if it was not the last of all.
    most_rows    that a message can have.
    """

    def __init__(self, parts: LockstepParts) -> None:
        self.last_shape: BatchShape | None = None
        self._parts = parts
        self._lifecycle = parts.lifecycle
        self._block_tokens = parts.config.block_tokens
        self.most_rows = min(parts.config.max_batched_tokens, parts.config.max_num_requests)

    def take(self, group: Group, others: list[RequestState]) -> Turn | None:
        """None, and nothing done, if it is not as simple as that."""
        parts = self._parts
        decode = [state for state in others if state.num_remaining_tokens == 1]
        num_decode = len(group.rows) + len(decode)
        bordering = group.needing_blocks()
        num_free = self._lifecycle.residency.num_free()
        block_tokens = parts.config.block_tokens
        num_needed = len(bordering) + sum(s.num_new_blocks(1, block_tokens) for s in others)
        if num_decode > self.most_rows or num_needed > num_free:
            return None
        candidates = self._candidates()
        admit: Sequence[int] = ()
        chunks: Chunks = ()
        if others or candidates:
            micro_batch_id = group.micro_batch.micro_batch_id
            view = parts.views.build_beside_steady_rows(micro_batch_id, others, candidates)
            admit, chunks = parts.policy.choose_prompts(view, view.ready, num_decode)
            rows = [(state.request_id, 1) for state in decode] + list(chunks)
            if len(bordering) + self._num_new_blocks(rows) > num_free:
                return None
        self._allocate(group, bordering)
        draft = MessageDraft()
        self._admit(group, admit, draft)
        return self._send(group, draft, decode, chunks)

    def _num_new_blocks(self, rows: Chunks) -> int:
        states, block_tokens = self._lifecycle.states, self._parts.config.block_tokens
        return sum(states[id_].num_new_blocks(num, block_tokens) for id_, num in rows)

    def _allocate(self, group: Group, bordering: dict[int, Row]) -> None:
        """A block for each of these rows, by count."""
        self._lifecycle.residency.owed.total += len(bordering)
        block_tokens, note_growth = self._block_tokens, self._lifecycle.admission.note_growth
        for row in bordering.values():
            note_growth(row.state, (row.base_tokens + group.num_turns) // block_tokens + 1)

    def _admit(self, group: Group, admit: Sequence[int], draft: MessageDraft) -> None:
        lifecycle, micro_batch_id = self._lifecycle, group.micro_batch.micro_batch_id
        for request_id in admit:
            state = group.others[request_id] = lifecycle.states[request_id]
            state.is_known_to_stages = True
            lifecycle.admit(request_id, micro_batch_id, draft)

    def _send(
        self, group: Group, draft: MessageDraft, decode: Sequence[RequestState], chunks: Chunks
    ) -> Turn:
        micro_batch_id = group.micro_batch.micro_batch_id
        is_fed_back = bool(group.in_flight)
        keys: list[RowKey] = []
        if decode or chunks:
            keys = self._add_rows(draft, decode, chunks, micro_batch_id)
            is_fed_back |= any(row.token_ids is None for row in draft.rows)
        turn = self._count(group, self._add_up(group, draft), draft.num_prefill_tokens)
        turn.is_fed_back = is_fed_back
        for key, state, row in zip(keys, draft.states, draft.rows, strict=True):
            group.place(turn, state, key, row.needs_sample)
        group.leave_after(turn.number)
        return turn

    def _add_rows(
        self,
        draft: MessageDraft,
        decode: Sequence[RequestState],
        chunks: Chunks,
        micro_batch_id: int,
    ) -> list[RowKey]:
        """Of prompts, and of who skipped a turn; their places among the others."""
        keys = [(0, state.last_turn, state.request_id) for state in decode]
        keys += [(1, place, 0) for place in range(len(chunks))]
        chosen = [(state, 1) for state in decode]
        chosen += [(self._lifecycle.states[request_id], num) for request_id, num in chunks]
        parts = self._parts
        parts.rows.build(draft, chosen, micro_batch_id, parts.turns.next_sequence)
        return keys

    def take_plain(self, group: Group) -> Turn | None:
        """``take`` where there are no others and nobody can be admitted."""
        bordering = group.needing_blocks()
        if bordering:
            if len(bordering) > self._lifecycle.residency.num_free():
                return None
            self._allocate(group, bordering)
        num_rows = len(group.rows)
        turn = self._count(group, BatchShape(num_rows, group.num_kv_tokens + num_rows, num_rows), 0)
        turn.is_fed_back = len(group.in_flight) > 1
        group.leave_after(turn.number)
        return turn

    def _add_up(self, group: Group, draft: MessageDraft) -> BatchShape:
        num_rows = len(group.rows)
        return BatchShape(
            draft.num_tokens + num_rows,
            draft.num_kv_tokens + group.num_kv_tokens + num_rows,
            len(draft.rows) + num_rows,
            draft.num_prompt_pairs,
        )

    def _count(self, group: Group, shape: BatchShape, num_prefill_tokens: int) -> Turn:
        """As sending the message would, with the rows in lock-step."""
        lifecycle, turns = self._lifecycle, self._parts.turns
        num_rows, micro_batch_id = len(group.rows), group.micro_batch.micro_batch_id
        turn = Turn(turns.next_sequence, group, shape, num_prefill_tokens)
        turn.num_steady = num_rows
        group.count_turn(turn)
        self.last_shape = shape
        lifecycle.micro_batches.note_computed(micro_batch_id, num_rows)
        lifecycle.accounting.num_batched_tokens += num_rows
        lifecycle.accounting.num_steps += 1
        turns.note_sent(micro_batch_id, has_rows=True)
        lifecycle.admission.note_turn()
        return turn

    def _candidates(self) -> tuple[WaitingRequest, ...]:
        """Requests are admitted in order, and none beyond what is unreserved."""
        admission = self._lifecycle.admission
        return admission.candidates(0) if admission.may_admit() else ()

    def would_admit(self, group: Group) -> bool:
        """Where nobody can run."""
        candidates = self._candidates()
        if not candidates:
            return False
        parts, micro_batch_id = self._parts, group.micro_batch.micro_batch_id
        view = parts.views.build_beside_steady_rows(micro_batch_id, (), candidates)
        return bool(parts.policy.choose_prompts(view, (), 0)[0])

    def write_budget(self) -> None:
        """The prefetch budget of the last turn, which is not worked out every turn."""
        if self.last_shape is None:
            return
        parts = self._parts
        view = parts.views.build_beside_steady_rows(0, (), ())
        budget_bytes = parts.policy.budget_bytes(view, self.last_shape)
        self._lifecycle.accounting.prefetch_budget_bytes = budget_bytes
