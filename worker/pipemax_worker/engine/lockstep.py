"""Turns without their messages: exactly what ``Scheduler`` would do, at the cost of what changes.

A request that decodes takes one token each turn of its micro-batch; nothing has to be asked or
written for it until it needs a block or its text ends (``lockstep_group``). ``Lockstep`` takes the
scheduler's place as long as that is so for most rows. Each turn it asks what the scheduler would
ask: who is admitted, which prompts go on, whether blocks suffice. Prompts and their rows are the
scheduler's own business (``RowBuilder``); a turn in which something else happens (blocks are short,
somebody is preempted or changes the micro-batch) is the scheduler's as a whole: the rows of that
micro-batch leave lock-step for it and join again with the turn's message.

For simulations (``planner.fast_forward``): there are no messages of the turns that it takes alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipemax_worker.contract.messages import SampledToken, ScheduledRequest, StageInput
from pipemax_worker.engine.config import HostEviction
from pipemax_worker.engine.lockstep_group import Group, RowKey, Turn
from pipemax_worker.engine.lockstep_short_turn import LockstepParts, ShortTurns
from pipemax_worker.engine.message import Plan
from pipemax_worker.engine.request_state import RequestState
from pipemax_worker.engine.turn_counter import MAX_PASSES


class Lockstep:
    """See the module. Made by ``Scheduler.begin_lockstep``."""

    def __init__(self, parts: LockstepParts, plans: Iterable[Plan], token_id: int) -> None:
        self._parts = parts
        self._lifecycle = parts.lifecycle
        self._token_id = token_id
        self._run_ahead = parts.config.run_ahead
        self._groups = [
            Group(micro_batch, parts.lifecycle.residency, parts.config.block_tokens, token_id)
            for micro_batch in parts.lifecycle.micro_batches
        ]
        self._short_turns = ShortTurns(parts, self._groups)
        self._is_closed = False
        self.in_flight = [self._take_over(plan) for plan in plans]

    def _take_over(self, plan: Plan) -> Turn:
        """A message that was in flight before: none of its rows is in lock-step."""
        group = self._groups[plan.stage_input.micro_batch_id]
        turn = Turn(plan.sequence, group, plan.shape, plan.num_prefill_tokens)
        states = self._lifecycle.states
        for place, row in enumerate(plan.stage_input.scheduled):
            turn.rows.append(((0, place, 0), states[row.request_id], row.needs_sample))
        group.count_turn(turn)
        return turn

    # --- turns

    def schedule(self, now: float) -> Turn | None:
        """Take the next turn; None if there is none before an output comes back."""
        group = self._groups[self._parts.turns.next_micro_batch_id]
        if self._is_plain(group):
            turn = self._short_turns.take_plain(group)
            if turn is not None:
                return turn
        return self._schedule_any(now)

    def note_requests(self) -> None:
        """Some may have been added."""
        self._is_closed = False

    def _is_plain(self, group: Group) -> bool:
        """Whether nothing can happen in the next turn but one more token for each row. Nobody can
        be admitted until a text ends, once nobody can."""
        if group.others or len(group.in_flight) != 1 or not group.rows or not self._run_ahead:
            return False
        if not self._is_closed:
            self._is_closed = not self._lifecycle.admission.may_admit()
        return self._is_closed and len(group.rows) <= self._short_turns.most_rows

    def _schedule_any(self, now: float) -> Turn | None:
        for _ in range(MAX_PASSES):
            has_changed = False
            for micro_batch_id in self._parts.turns.order():
                group = self._groups[micro_batch_id]
                scheduled, has_changed_here = self._take_turn(group, now)
                if scheduled is not None:
                    return scheduled
                has_changed |= has_changed_here
            if not has_changed:
                break
        return None

    def _take_turn(self, group: Group, now: float) -> tuple[Turn | None, bool]:
        self._is_closed = False
        others = self._short_turns.ready_others(group)
        if self._may_rebalance(group) or not self._is_even(group, others):
            return self._take_whole_turn(group, now)
        if not group.rows or not self._is_ready(group):
            if others or self._short_turns.would_admit(group):
                return self._take_whole_turn(group, now)
            return None, False
        scheduled = self._short_turns.take(group, others)
        return self._take_whole_turn(group, now) if scheduled is None else (scheduled, False)

    def _may_rebalance(self, group: Group) -> bool:
        """Whether the scheduler might move an idle request from here to another micro-batch."""
        if not self._parts.policy.balances or not self._lifecycle.admission.is_empty:
            return False
        if group.in_flight and all(state.num_in_flight for state in group.others.values()):
            return False
        return len(group.micro_batch) > min(self._lifecycle.micro_batches.sizes) + 1

    def _is_ready(self, group: Group) -> bool:
        """Whether the rows in lock-step can be scheduled, as far as tokens go."""
        num_in_flight = len(group.in_flight)
        return num_in_flight == 0 or (self._run_ahead and num_in_flight == 1)

    def _is_even(self, group: Group, others: Sequence[RequestState]) -> bool:
        """Whether all members that have outputs to come can run, or none."""
        if not group.rows or self._is_ready(group):
            return True
        return not others and (not self._run_ahead or group.last_join < group.num_turns - 1)

    # --- a turn of the scheduler

    def _take_whole_turn(self, group: Group, now: float) -> tuple[Turn | None, bool]:
        parts = self._parts
        group.dissolve(parts.manager)
        if self._short_turns.is_short(group, self._short_turns.ready_others(group)):
            self._short_turns.release_needy(group)
        plan, has_changed = parts.take_turn(group.micro_batch.micro_batch_id, now)
        for each in self._groups:
            each.forget_strangers()
        if plan is None:
            return None, has_changed
        turn = Turn(plan.sequence, group, plan.shape, plan.num_prefill_tokens)
        group.count_turn(turn)
        for place, row in enumerate(plan.stage_input.scheduled):
            state = self._lifecycle.states[row.request_id]
            group.place(turn, state, (0, place, 0), row.needs_sample)
        group.leave_after(turn.number)
        self._short_turns.last_shape = None
        turn.stage_input = plan.stage_input
        return turn, has_changed

    # --- what comes back

    def deliver(self, turn: Turn) -> None:
        """Its outputs have come; it is the oldest in flight."""
        lifecycle, group = self._lifecycle, self._groups[turn.micro_batch_id]
        group.leave_at_end(turn.number)
        group.in_flight.popleft()
        self._parts.turns.num_in_flight -= 1
        lifecycle.accounting.num_generated_tokens += turn.num_steady
        if turn.rows:
            self._take_outputs(group, turn)

    def _take_outputs(self, group: Group, turn: Turn) -> None:
        """Of rows that are not in lock-step (any more)."""
        lifecycle = self._lifecycle
        self._is_closed = False
        turn.rows.sort(key=_place_of)
        for _, state, needs_sample in turn.rows:
            state.num_in_flight -= 1
            if needs_sample:
                state.num_unknown_tokens -= 1
                lifecycle.take_token(state, SampledToken(state.request_id, self._token_id))
            lifecycle.settle(state)
            if state.micro_batch_id != turn.micro_batch_id:
                group.others.pop(state.request_id, None)

    # --- the end

    def write(self) -> None:
        """What is not kept up every turn, for who looks: the last turn's prefetch budget, blocks
        that are only counted."""
        self._short_turns.write_budget()
        for group in self._groups:
            group.owe_all()
        residency = self._lifecycle.residency
        for request_id in list(residency.owed.by_request):
            residency.allocate_owed(self._lifecycle.states[request_id])

    def end(self, turns: Iterable[Turn]) -> list[Plan]:
        """The scheduler goes on. Returns the messages of ``turns``, all that are in flight, for who
        takes their outputs: which slots and positions their stages read is not in them."""
        self.write()
        for group in self._groups:
            group.dissolve(self._parts.manager)
        return [_plan(turn) for turn in turns]


def _place_of(row: tuple[RowKey, RequestState, bool]) -> RowKey:
    return row[0]


def _plan(turn: Turn) -> Plan:
    rows = tuple(
        ScheduledRequest(state.request_id, state.num_computed_tokens, 1, None, b"", needs_sample)
        for _, state, needs_sample in sorted(turn.rows, key=_place_of)
    )
    stage_input = StageInput(turn.sequence, turn.micro_batch_id, scheduled=rows)
    expects_output = any(row.needs_sample for row in rows)
    return Plan(stage_input, turn.shape, expects_output, turn.num_prefill_tokens)


def start_lockstep(parts: LockstepParts, plans: Iterable[Plan], token_id: int) -> Lockstep | None:
    """None where turns depend on more than ``Lockstep`` looks at: tiers below the device, shared
    prefixes, the order in which requests ran."""
    manager, config = parts.manager, parts.config
    if manager.has_host_tier or manager.has_nvme_tier or config.prefix_sharing:
        return None
    if config.host_eviction is not HostEviction.NEXT_USE or not parts.lifecycle.transit.is_empty:
        return None
    return Lockstep(parts, plans, token_id)
