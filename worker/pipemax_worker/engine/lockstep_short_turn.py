"""A turn of the rows in lock-step, and of prompts beside them: where nothing else happens.

The policy is asked who is admitted and which prompts go on (``SteadyPolicy.choose_prompts``); rows
in lock-step are a number to it. Their own rows, those of prompts, are ``RowBuilder``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pipemax_worker.engine.config import SchedulerConfig
from pipemax_worker.engine.lifecycle import Lifecycle
from pipemax_worker.engine.lockstep_group import Group, RowKey, Turn
from pipemax_worker.engine.message import MessageDraft, Plan
from pipemax_worker.engine.policies.composing import Preemptions, rows_that_stay
from pipemax_worker.engine.request_state import RequestState, ready_states
from pipemax_worker.engine.rows import RowBuilder
from pipemax_worker.engine.turn_counter import TurnCounter
from pipemax_worker.engine.view import SteadyPolicy, WaitingRequest
from pipemax_worker.engine.view_builder import LEAST_RECENTLY_RUN, ViewBuilder
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

    def __init__(self, parts: LockstepParts, groups: Sequence[Group]) -> None:
        self.last_shape: BatchShape | None = None
        self._parts = parts
        self._groups = groups
        self._lifecycle = parts.lifecycle
        self._block_tokens = parts.config.block_tokens
        self.most_rows = min(parts.config.max_batched_tokens, parts.config.max_num_requests)

    def ready_others(self, group: Group) -> list[RequestState]:
        """Those not in lock-step that can run, as they are ordered in a message."""
        if not group.others:
            return []
        states = ready_states(group.others.values(), self._parts.config.run_ahead)
        states.sort(key=LEAST_RECENTLY_RUN)
        return states

    def take(self, group: Group, others: list[RequestState]) -> Turn | None:
        """With ``others``; None, and nothing done but that some have left lock-step, if it is not
        as simple as that."""
        parts, micro_batch_id = self._parts, group.micro_batch.micro_batch_id
        is_short = self.is_short(group, others)
        if is_short:
            self.release_needy(group)
            others = self.ready_others(group)
        if not group.rows or len(group.rows) + len(others) > self.most_rows:
            return None
        candidates = self._candidates()
        decode = [state for state in others if state.num_remaining_tokens == 1]
        admit: Sequence[int] = ()
        chunks: Chunks = ()
        if others or candidates:
            view = parts.views.build_beside_steady_rows(
                micro_batch_id, others, candidates, may_preempt=is_short
            )
            preempt = parts.policy.choose_preemptions(view)
            rows = rows_that_stay(view, preempt)
            decode = self._preempt(preempt, decode)
            num_decode = len(group.rows) + len(decode)
            admit, chunks = parts.policy.choose_prompts(
                view, rows, num_decode, may_admit=not preempt
            )
        self._allocate(group)
        draft = MessageDraft()
        self._admit(group, admit, draft)
        return self._send(group, draft, decode, chunks)

    # --- where blocks are short

    def is_short(self, group: Group, others: Iterable[RequestState]) -> bool:
        """Whether somebody has to make room for a token of each that can run."""
        num_needed = len(group.needing_blocks())
        num_needed += sum(state.num_new_blocks(1, self._block_tokens) for state in others)
        return num_needed > self._lifecycle.residency.num_allocatable()

    def release_needy(self, group: Group) -> None:
        """Who needs a block, and whoever may be preempted for it, leaves lock-step."""
        manager = self._parts.manager
        for needy in list(group.needing_blocks().values()):
            group.release(needy, manager)
        for victim in self._parts.views.victims():
            if victim.micro_batch_id is not None:
                its_group = self._groups[victim.micro_batch_id]
                row = its_group.rows.get(victim.request_id)
                if row is not None:
                    its_group.release(row, manager)
                self._lifecycle.residency.allocate_owed(victim)

    def _preempt(self, preempt: Preemptions, decode: list[RequestState]) -> list[RequestState]:
        """Those of ``decode`` that stay."""
        for request_id, kind in preempt:
            state = self._lifecycle.states[request_id]
            micro_batch_id = state.micro_batch_id
            self._lifecycle.preempt(state, kind)
            if state.micro_batch_id is None and micro_batch_id is not None:
                del self._groups[micro_batch_id].others[request_id]
        if not preempt:
            return decode
        preempted_ids = {request_id for request_id, _ in preempt}
        return [state for state in decode if state.request_id not in preempted_ids]

    # --- the turn

    def _allocate(self, group: Group) -> None:
        """A block for each row that needs one, by count."""
        bordering = group.needing_blocks()
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
        keys: dict[int, RowKey] = {}
        if decode or chunks:
            keys = self._add_rows(draft, decode, chunks, micro_batch_id)
            is_fed_back |= any(row.token_ids is None for row in draft.rows)
        turn = self._count(group, self._add_up(group, draft), draft.num_prefill_tokens)
        turn.is_fed_back = is_fed_back
        for state, row in zip(draft.states, draft.rows, strict=True):
            group.place(turn, state, keys[state.request_id], row.needs_sample)
        group.leave_after(turn.number)
        return turn

    def _add_rows(
        self,
        draft: MessageDraft,
        decode: Sequence[RequestState],
        chunks: Chunks,
        micro_batch_id: int,
    ) -> dict[int, RowKey]:
        """Of those not in lock-step, as far as there are blocks; their places in the message."""
        keys = {state.request_id: (0, state.last_turn, state.request_id) for state in decode}
        keys.update((chunk[0], (1, place, 0)) for place, chunk in enumerate(chunks))
        chosen = [(state, 1) for state in decode]
        chosen += [(self._lifecycle.states[request_id], num) for request_id, num in chunks]
        parts = self._parts
        parts.rows.build(draft, chosen, micro_batch_id, parts.turns.next_sequence)
        return keys

    def take_plain(self, group: Group) -> Turn | None:
        """``take`` where there are no others and nobody can be admitted."""
        if group.needing_blocks():
            if self.is_short(group, ()):
                return None
            self._allocate(group)
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
