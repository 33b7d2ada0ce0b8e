"""Turns in which nothing happens but one more token for each row, many at a time.

Where every running request decodes, nothing moves between tiers, nobody can be admitted and no text
ends, a turn of a micro-batch is known beforehand: the same rows, one position further. ``Lockstep``
takes such turns for whole micro-batches and writes the requests once, when it is over. Each turn it
asks what ``Scheduler`` would ask: whether somebody may be admitted, whether blocks suffice, whether
a request would change its micro-batch. It is over *before* the first turn that would be another.

For simulations (``planner.fast_forward``): there are no messages of the turns that it takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipemax_worker.contract.messages import ScheduledRequest, StageInput
from pipemax_worker.engine.config import SchedulerConfig
from pipemax_worker.engine.hidden_length import LengthReached
from pipemax_worker.engine.lifecycle import Lifecycle
from pipemax_worker.engine.message import Plan
from pipemax_worker.engine.request_state import RequestState, RequestStatus
from pipemax_worker.engine.view import SteadyPolicy
from pipemax_worker.engine.view_builder import ViewBuilder
from pipemax_worker.kvcache.block_manager import BlockManager
from pipemax_worker.performance.batch_shape import BatchShape


class Row:
    """A request of a micro-batch in lock-step: how many more outputs it may have."""

    __slots__ = ("num_limit_tokens", "num_text_tokens", "state")

    def __init__(self, state: RequestState) -> None:
        self.state = state
        self.num_limit_tokens = state.max_known_tokens - len(state.token_ids)
        self.num_text_tokens = self.num_limit_tokens
        if isinstance(state.stop_checker, LengthReached):
            self.num_text_tokens = min(self.num_limit_tokens, state.stop_checker.num_left)


class Group:
    """One micro-batch, all of whose rows are equally far: ``num_in_flight`` messages each.

    num_scheduled, num_delivered   turns taken, and outputs come back, since the beginning.
    borders                        rows by the turn, modulo the block size, that needs a block.
    """

    def __init__(self, states: Iterable[RequestState], num_in_flight: int, block_tokens: int):
        self.rows = [Row(state) for state in sorted(states, key=lambda s: s.request_id)]
        self.num_in_flight = num_in_flight
        self.num_scheduled = self.num_delivered = 0
        self.last_turn = -1
        self.num_text_tokens = min(row.num_text_tokens for row in self.rows)
        self.num_limit_tokens = min(row.num_limit_tokens for row in self.rows)
        self.borders: list[list[RequestState]] = [[] for _ in range(block_tokens)]
        for row in self.rows:
            self.borders[-row.state.num_computed_tokens % block_tokens].append(row.state)

    def needing_blocks(self) -> list[RequestState]:
        """In the order of their rows, those that need a block for the next turn."""
        return self.borders[self.num_scheduled % len(self.borders)]


Parts = tuple[SchedulerConfig, BlockManager, Lifecycle, ViewBuilder, SteadyPolicy]
"""Of the scheduler whose turns are taken."""


class Lockstep:
    """See the module. Made by ``Scheduler.begin_lockstep``; ``is_over`` before another turn."""

    def __init__(
        self, parts: Parts, numbers: tuple[int, int], groups: Sequence[Group | None]
    ) -> None:
        self.is_over = False
        self.next_sequence, self.next_micro_batch_id = numbers
        self.groups = groups
        self._config, self._manager, lifecycle, self._views, self._policy = parts
        self._lifecycle = lifecycle
        self._last_shape: BatchShape | None = None
        self._sizes = lifecycle.micro_batches.sizes
        # New requests are offered by who runs and waits, which does not change now; those that
        # return also by the blocks that are free.
        self._candidates = lifecycle.admission.candidates(0)

    # --- turns

    def schedule(self) -> int | None:
        """Take the next turn; its micro-batch, or None if none is ready or a turn would be another
        (then ``is_over``)."""
        lifecycle, num = self._lifecycle, self._config.num_micro_batches
        lifecycle.micro_batches.forget_predictions()
        for offset in range(num):
            micro_batch_id = (self.next_micro_batch_id + offset) % num
            group = self.groups[micro_batch_id]
            is_ready = group is not None and self._is_ready(group)
            if self._would_change(micro_batch_id, group, is_ready):
                self.is_over = True
                return None
            if group is not None and is_ready:
                self._take_turn(group, micro_batch_id)
                return micro_batch_id
        return None

    def _is_ready(self, group: Group) -> bool:
        return group.num_in_flight == 0 or (self._config.run_ahead and group.num_in_flight == 1)

    def _would_change(self, micro_batch_id: int, group: Group | None, is_ready: bool) -> bool:
        num_rows = 0
        if group is not None:
            if self._would_rebalance(group):
                return True
            if is_ready:
                num_rows = len(group.rows)
                num_limit_tokens = group.num_limit_tokens - group.num_delivered
                if group.num_in_flight and num_limit_tokens <= 1:
                    return True  # somebody's last output is on its way: its row would be missing
                if len(group.needing_blocks()) > self._manager.num_free_device_slots:
                    return True
        return self._may_admit(micro_batch_id, num_rows)

    def _would_rebalance(self, group: Group) -> bool:
        if not self._policy.balances or not self._lifecycle.admission.is_empty:
            return False
        return group.num_in_flight == 0 and len(group.rows) > min(self._sizes) + 1

    def _may_admit(self, micro_batch_id: int, num_rows: int) -> bool:
        candidates = self._candidates
        if candidates and self._lifecycle.admission.returning:
            candidates = self._candidates = self._lifecycle.admission.candidates(0)
        num_unreserved_blocks = self._lifecycle.admission.num_unreserved_blocks
        # Requests are admitted in order, and none beyond what is unreserved.
        if not candidates or candidates[0].num_blocks > max(0, num_unreserved_blocks):
            return False
        view = self._views.build_for_admission(micro_batch_id, candidates)
        return self._policy.admits(view, num_rows)

    def _take_turn(self, group: Group, micro_batch_id: int) -> None:
        lifecycle = self._lifecycle
        for state in group.needing_blocks():
            lifecycle.residency.allocate(state, 1)
            lifecycle.admission.note_growth(state)
        group.num_scheduled += 1
        group.num_in_flight += 1
        group.last_turn = self.next_sequence
        lifecycle.micro_batches.note_computed(micro_batch_id, len(group.rows))
        lifecycle.admission.note_turn()
        self.next_sequence += 1
        self.next_micro_batch_id = (micro_batch_id + 1) % self._config.num_micro_batches

    def shape(self, micro_batch_id: int) -> BatchShape:
        """Of the turn that this micro-batch has just taken."""
        shape = self._last_shape = self._lifecycle.micro_batches[micro_batch_id].shape
        return shape

    def deliver(self, micro_batch_id: int) -> bool:
        """Its oldest message has come back; False, and nothing done, if a text ends with it."""
        group = self.groups[micro_batch_id]
        if group is None or group.num_delivered + 1 >= group.num_text_tokens:
            self.is_over = True
            return False
        group.num_in_flight -= 1
        group.num_delivered += 1
        return True

    # --- the end

    def plan(self, sequence: int, micro_batch_id: int, shape: BatchShape, turn: int) -> Plan:
        """The message of the group's turn number ``turn`` for who takes its outputs; the slots that
        its stages read are not in it. Before ``write``."""
        group = self.groups[micro_batch_id]
        rows = tuple(
            ScheduledRequest(
                row.state.request_id, row.state.num_computed_tokens + turn, 1, None, b"", True
            )
            for row in (group.rows if group is not None else ())
        )
        return Plan(StageInput(sequence, micro_batch_id, rows), shape, True)

    def write(self, token_id: int) -> None:
        """Bring the requests up to here; every output was ``token_id``."""
        accounting = self._lifecycle.accounting
        if self._last_shape is not None:
            view = self._views.build_for_admission(self.next_micro_batch_id, ())
            budget_bytes = self._policy.budget_bytes(view, self._last_shape)
            accounting.prefetch_budget_bytes = budget_bytes
        for group in self.groups:
            if group is not None:
                accounting.num_steps += group.num_scheduled
                accounting.num_batched_tokens += group.num_scheduled * len(group.rows)
                accounting.num_generated_tokens += group.num_delivered * len(group.rows)
                for row in group.rows:
                    self._write_row(group, row.state, token_id)

    def _write_row(self, group: Group, state: RequestState, token_id: int) -> None:
        block_tokens = self._config.block_tokens
        state.token_ids += [token_id] * group.num_delivered
        if isinstance(state.stop_checker, LengthReached):
            state.stop_checker.skip(group.num_delivered)
        state.num_in_flight = state.num_unknown_tokens = group.num_in_flight
        if group.num_scheduled == 0:
            return
        first_block = state.num_computed_tokens // block_tokens
        state.num_computed_tokens += group.num_scheduled
        state.num_ever_computed = state.num_computed_tokens
        state.last_turn = group.last_turn
        state.num_stored_blocks = state.num_computed_tokens // block_tokens
        for index in range(first_block, len(state.block_ids)):
            num_filled = state.num_computed_tokens - index * block_tokens
            self._manager.mark_filled(state.block_ids[index], min(block_tokens, num_filled))


def start_lockstep(
    parts: Parts, numbers: tuple[int, int], plans: tuple[Plan, ...], min_turns: int
) -> Lockstep | None:
    """From the next sequence and micro-batch, ``numbers``, on; None if the next turns would be
    others, or too few."""
    config, manager, lifecycle, _, _ = parts
    if manager.has_host_tier or config.prefix_sharing:
        return None
    if lifecycle.marked or not lifecycle.transit.is_empty:
        return None
    groups = form_groups(config, lifecycle, plans)
    if groups is None or min((g.num_text_tokens for g in groups if g), default=0) <= min_turns:
        return None
    return Lockstep(parts, numbers, groups)


def form_groups(
    config: SchedulerConfig, lifecycle: Lifecycle, plans: Sequence[Plan]
) -> list[Group | None] | None:
    """The micro-batches in lock-step with ``plans`` in flight; None if they are not."""
    in_flight = [0] * config.num_micro_batches
    sizes = lifecycle.micro_batches.sizes
    for plan in plans:
        micro_batch_id = plan.stage_input.micro_batch_id
        in_flight[micro_batch_id] += 1
        num_rows = len(plan.stage_input.scheduled)
        if num_rows != sizes[micro_batch_id] or plan.shape.num_tokens != num_rows:
            return None
    groups: list[Group | None] = []
    most_rows = min(config.max_batched_tokens, config.max_num_requests)
    for micro_batch, num_in_flight in zip(lifecycle.micro_batches, in_flight, strict=True):
        is_even = all(_is_even(state, num_in_flight, config) for state in micro_batch)
        if not is_even or len(micro_batch) > most_rows or micro_batch.lacking:
            return None
        group = None
        if len(micro_batch):
            group = Group(micro_batch, num_in_flight, config.block_tokens)
        groups.append(group)
    return groups


def _is_even(state: RequestState, num_in_flight: int, config: SchedulerConfig) -> bool:
    """Whether it decodes, has just the blocks that it needs and is as far as ``num_in_flight``."""
    num_computed = state.num_computed_tokens
    return (
        state.status is RequestStatus.RUNNING
        and state.preemption is None
        and state.num_in_flight == num_in_flight == state.num_unknown_tokens
        and num_computed + 1 == len(state.token_ids) + num_in_flight
        and num_computed >= max(state.num_prompt_tokens, state.num_ever_computed)
        and len(state.block_ids) * config.block_tokens - num_computed < config.block_tokens
        and state.is_known_to_stages
        and not state.request.sampling.stop_token_ids
        and (state.stop_checker is None or isinstance(state.stop_checker, LengthReached))
    )
