"""Decides the next message: which requests run, which blocks move.

Micro-batches take turns. A turn: the policy composes micro-batch c from a view; its rows get their
blocks; what they fill is written through; what micro-batch c+1 lacks is loaded beside it. All of it
is decided on the state *as of the message being composed* (``contract.messages``): no turn waits
for reports, except where a copy's source is to be given up.

The scheduler and its parts are the only writers of ``RequestState``; blocks are ``BlockManager``'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from pipemax_worker.contract.messages import SampledToken, StageReport
from pipemax_worker.contract.request import (
    FinishedRequest,
    Request,
    RequestProgress,
    StopChecker,
)
from pipemax_worker.contract.statistics import EngineStatistics
from pipemax_worker.engine.accounting import StageTimes
from pipemax_worker.engine.config import SchedulerConfig
from pipemax_worker.engine.lifecycle import Lifecycle
from pipemax_worker.engine.lockstep import Lockstep, start_lockstep
from pipemax_worker.engine.lockstep_short_turn import LockstepParts
from pipemax_worker.engine.message import MessageDraft, Plan
from pipemax_worker.engine.parking import Parking
from pipemax_worker.engine.request_state import RequestState
from pipemax_worker.engine.rotation import Rotation
from pipemax_worker.engine.rows import RowBuilder
from pipemax_worker.engine.snapshot import derive_statistics
from pipemax_worker.engine.stall import StallBreaker
from pipemax_worker.engine.turn_counter import MAX_PASSES, TurnCounter
from pipemax_worker.engine.view import Composition, Policy, PolicyState, SteadyPolicy
from pipemax_worker.engine.view_builder import ViewBuilder
from pipemax_worker.errors import InvariantError
from pipemax_worker.kvcache.block_manager import BlockManager
from pipemax_worker.performance.batch_shape import BatchShape, Estimator
from pipemax_worker.performance.link import LinkEstimator


class Scheduler:
    """One pipeline's scheduler. Two-phase: ``schedule`` a plan, ``complete`` it with its output."""

    def __init__(
        self,
        config: SchedulerConfig,
        block_manager: BlockManager,
        policy: Policy,
        estimator: Estimator,
        links: LinkEstimator,
    ) -> None:
        if config.order_window is None:
            config = msgspec.structs.replace(config, order_window=policy.order_window)
        self.config = config
        self._manager = block_manager
        self._policy = policy
        self._estimator = estimator
        self._links = links
        self._lifecycle = Lifecycle(config, block_manager, estimator)
        self._rotation = Rotation(
            config, block_manager, self._lifecycle.residency, self._lifecycle.micro_batches
        )
        self._rows = RowBuilder(config, block_manager, self._lifecycle, self._rotation)
        self._views = ViewBuilder(
            config, block_manager, self._lifecycle, estimator, links, policy.uses_pool
        )
        self._policy_state = PolicyState()
        self._stall = StallBreaker(block_manager, self._lifecycle, self._rotation)
        self.parking = Parking(config, block_manager, self._lifecycle, estimator, links)
        self._draft = MessageDraft()
        self._next_request_id = 0
        self._turns = TurnCounter(config.num_micro_batches)
        self._has_changed = False

    def continue_from(self, former: Scheduler) -> None:
        """Before the first request: count requests and messages on from ``former``, whose stages
        these are: to them a number stands for one request, or one message, for ever."""
        self._next_request_id = former._next_request_id
        self._turns.next_sequence = former._turns.next_sequence

    # --- requests

    def check_request(self, request: Request) -> None:
        """Raises RequestError if ``request`` can never run in these tiers."""
        self._lifecycle.admission.check(request)

    def add_request(
        self,
        request: Request,
        stop_checker: StopChecker | None = None,
        progress: RequestProgress | None = None,
    ) -> int:
        """Queue a request; returns its id. Raises RequestError if it can never run."""
        self.check_request(request)
        request_id = self._next_request_id
        self._next_request_id += 1
        state = RequestState(request_id, request, stop_checker)
        if progress is not None:
            state.resume(progress)
        self._lifecycle.add(state, progress)
        return request_id

    @property
    def has_unfinished_requests(self) -> bool:
        return self._lifecycle.num_unfinished > 0

    @property
    def has_pending_copies(self) -> bool:
        return self._manager.num_pending_copies > 0

    @property
    def num_waiting(self) -> int:
        return len(self._lifecycle.admission.waiting)

    @property
    def num_running(self) -> int:
        return sum(self._lifecycle.micro_batches.sizes)

    def unfinished_requests(self) -> tuple[Request, ...]:
        """In order of arrival; what a runner starts again elsewhere."""
        return tuple(state.request for state in self._lifecycle.unfinished())

    def unfinished_requests_of(self, plans: Iterable[Plan]) -> tuple[Request, ...]:
        """Those with a row in one of ``plans``, in order of arrival."""
        ids = {row.request_id for plan in plans for row in plan.stage_input.scheduled}
        return tuple(s.request for s in self._lifecycle.unfinished() if s.request_id in ids)

    def progress(self) -> tuple[RequestProgress, ...]:
        """Of the unfinished requests that have outputs, in order of arrival."""
        return tuple(s.progress() for s in self._lifecycle.unfinished() if s.num_output_tokens)

    def take_finished(self) -> list[FinishedRequest]:
        return self._lifecycle.take_finished()

    def statistics(self) -> EngineStatistics:
        return derive_statistics(self._lifecycle, self._manager, self._estimator, self._links)

    # --- a turn

    def schedule(self, now: float) -> Plan | None:
        """The next message, or None if there is nothing to send before more is known.

        Raises InvariantError if that can never be: nothing is in flight and nothing can be done.
        """
        self._lifecycle.micro_batches.forget_predictions()
        for _ in range(MAX_PASSES):
            self._has_changed = self._lifecycle.advance_transit(self._draft)
            for micro_batch_id in self._turns.order():
                if self._compose(micro_batch_id, now):
                    return self._send(micro_batch_id)
            if not self._has_changed:
                break
        if self._turns.num_in_flight == 0 and self.has_unfinished_requests:
            return self._break_stall(now)
        return self.schedule_copies()

    def _break_stall(self, now: float) -> Plan | None:
        """Nothing runs and no row could be built: one request gets all the room there is."""
        focus = None if self._draft.has_copies else self._stall.make_room(self._draft)
        if self._draft.has_copies:
            return self._send(self._turns.next_micro_batch_id)
        if focus is not None and focus.micro_batch_id is not None:
            micro_batch_id = focus.micro_batch_id
            if self._compose(micro_batch_id, now):
                return self._send(micro_batch_id)
        if not self.has_pending_copies:
            raise InvariantError(self._stall.describe(focus))
        return None

    def _compose(self, micro_batch_id: int, now: float) -> bool:
        """Compose one micro-batch into the draft; False if it has no row."""
        if self._policy.balances and self._lifecycle.admission.is_empty:
            self._lifecycle.micro_batches.rebalance(micro_batch_id)
        view = self._views.build(micro_batch_id, self._policy_state)
        if view is None:
            return False
        composition = self._policy.compose(view, now)
        states = self._lifecycle.states
        self._has_changed |= bool(composition.preempt or composition.admit)
        if composition.state is not None:
            self._has_changed |= composition.state.phase is not self._policy_state.phase
            self._policy_state = composition.state
        for request_id, target in composition.transfer:
            self._lifecycle.micro_batches.transfer(states[request_id], target)
        for request_id, kind in composition.preempt:
            self._lifecycle.preempt(states[request_id], kind)
        for request_id in composition.admit:
            self._lifecycle.admit(request_id, micro_batch_id, self._draft)
        chosen = [(states[request_id], 1) for request_id in composition.decode]
        chosen += [(states[request_id], num) for request_id, num in composition.chunks]
        self._rows.build(self._draft, chosen, micro_batch_id, self._turns.next_sequence)
        if not self._draft.rows:
            return False
        self._follow_up(micro_batch_id, composition)
        return True

    def _follow_up(self, micro_batch_id: int, composition: Composition) -> None:
        """What goes beside the rows: unfilled blocks down, blocks for the next turn up."""
        lifecycle, draft = self._lifecycle, self._draft
        self._rotation.store_tails(draft, micro_batch_id)
        loadable: list[tuple[RequestState, int]] = []
        for request_id, num_blocks in composition.prefetch:
            state = lifecycle.states[request_id]
            if state.micro_batch_id is None:
                continue  # preempted in this turn
            if not state.needs_fetch:
                loadable.append((state, num_blocks))
            elif state.num_in_flight == 0:
                lifecycle.fetch_again(state, draft)
        self._rotation.prefetch(draft, loadable, micro_batch_id)
        lifecycle.accounting.prefetch_budget_bytes = composition.prefetch_budget_bytes

    def _send(self, micro_batch_id: int) -> Plan:
        draft, self._draft = self._draft, MessageDraft()
        draft.finished_ids, self._lifecycle.newly_finished_ids = (
            self._lifecycle.newly_finished_ids,
            [],
        )
        plan = draft.build(self._turns.next_sequence, micro_batch_id)
        self._lifecycle.residency.note_stored(self._manager.close_message())
        has_rows = bool(plan.stage_input.scheduled)
        self._turns.note_sent(micro_batch_id, has_rows=has_rows)
        self._lifecycle.accounting.num_steps += 1
        if has_rows:
            self._lifecycle.admission.note_turn()
        return plan

    def schedule_copies(self) -> Plan | None:
        """A message with the copies that were ordered and not sent yet; None if there are none."""
        return self._send(self._turns.next_micro_batch_id) if self._draft.has_copies else None

    # --- turns in lock-step

    def begin_lockstep(self, plans: Iterable[Plan], token_id: int) -> Lockstep | None:
        """Takes the turns after ``plans`` in flight, every output of which is ``token_id``, in this
        scheduler's place, which is of no use until it ends; None where that cannot be."""
        if self._draft.has_copies or not isinstance(self._policy, SteadyPolicy):
            return None
        parts = LockstepParts(
            self.config,
            self._manager,
            self._lifecycle,
            self._views,
            self._policy,
            self._rows,
            self._turns,
            self.take_turn,
        )
        return start_lockstep(parts, plans, token_id)

    @property
    def next_sequence(self) -> int:
        return self._turns.next_sequence

    def note_times(self, messages: Sequence[Sequence[StageTimes]]) -> None:
        """Of messages that came back in lock-step: what each was to each stage."""
        self._lifecycle.accounting.note_times(messages)

    def take_turn(self, micro_batch_id: int, now: float) -> tuple[Plan | None, bool]:
        """Of this micro-batch: (its message, None if it has no row; whether others may have rows
        now that had none)."""
        self._has_changed = False
        plan = self._send(micro_batch_id) if self._compose(micro_batch_id, now) else None
        return plan, self._has_changed

    def schedule_parking(self, seconds_left: float) -> Plan | None:
        """After ``parking.start``: the next message of it, or None if nothing is to be ordered
        before more is known."""
        self.parking.advance(self._draft, seconds_left)
        return self.schedule_copies()

    # --- what comes back

    def update_from_report(self, report: StageReport, shape: BatchShape | None) -> None:
        """Take one stage's report; ``shape`` is that of its message, None for an idle report."""
        self._lifecycle.accounting.note_report(report)
        if report.copies:
            completed = self._manager.update_from_report(report.stage, report.copies)
            num_stages = self.config.geometry.num_stages
            for copy in completed:
                stage_bytes = copy.num_bytes // num_stages
                self._links.observe(copy.source, copy.target, stage_bytes, copy.seconds)
            self.parking.note_completed(completed)
            self._lifecycle.note_completed(completed)
        if shape is not None:
            self._estimator.observe(shape, report.stage, report.compute_seconds)

    def update_from_output(self, plan: Plan, sampled: Mapping[int, SampledToken]) -> None:
        """The last stage is through with ``plan``; ``sampled`` holds its tokens by request id."""
        self._turns.num_in_flight -= 1
        self._lifecycle.take_output(plan, sampled)
