"""The transitions of a request: admitted, preempted, parked, returned, cut back, finished.

Each keeps in step what hangs on it: blocks, reservations, expected prefixes, micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.messages import SampledToken
from pipemax_worker.contract.request import FinishedRequest, FinishReason, RequestProgress
from pipemax_worker.engine.accounting import Accounting
from pipemax_worker.engine.admission import Admission
from pipemax_worker.engine.config import SchedulerConfig
from pipemax_worker.engine.message import MessageDraft, Plan
from pipemax_worker.engine.micro_batches import MicroBatches
from pipemax_worker.engine.outputs import append_token, build_finished
from pipemax_worker.engine.prefix_sharing import PrefixSharing
from pipemax_worker.engine.request_state import PreemptionKind, RequestState, RequestStatus
from pipemax_worker.engine.residency import Residency
from pipemax_worker.engine.restoration import Restoration
from pipemax_worker.engine.transit import Transit
from pipemax_worker.errors import InvariantError, RequestError
from pipemax_worker.kvcache.block_manager import BlockManager
from pipemax_worker.kvcache.copies import CompletedCopy
from pipemax_worker.performance.batch_shape import Estimator

_RUNNING = RequestStatus.RUNNING


class Lifecycle:
    """Owns the requests and the parts that keep account of them.

    states              unfinished requests, by id, and finished ones with a row still in flight.
    marked              preemptions that wait for the rows in flight.
    newly_finished_ids  to be named to the stages in the next message.
    """

    def __init__(
        self, config: SchedulerConfig, manager: BlockManager, estimator: Estimator
    ) -> None:
        self.states: dict[int, RequestState] = {}
        self.marked: dict[int, RequestState] = {}
        self.newly_finished_ids: list[int] = []
        self.num_unfinished = 0
        self.accounting = Accounting(config.geometry.num_stages)
        self.micro_batches = MicroBatches(config.num_micro_batches, estimator)
        self.residency = Residency(manager, self.micro_batches)
        self.sharing = PrefixSharing(manager, config.block_tokens, config.prefix_sharing)
        self.admission = Admission(config, manager, self.residency, self.sharing)
        self.transit = Transit(manager, self.residency)
        self._restoration = Restoration(manager, self.residency, self.sharing, config.block_tokens)
        self._config = config
        self._manager = manager
        self._finished: list[FinishedRequest] = []

    @property
    def num_returning_blocks(self) -> int:
        """Blocks of requests that are about to give them up."""
        num_marked = sum(len(state.block_ids) for state in self.marked.values())
        return num_marked + self.transit.num_leaving_blocks

    def unfinished(self) -> Iterator[RequestState]:
        """In order of arrival."""
        return (state for state in self.states.values() if not state.is_finished)

    def add(self, state: RequestState, progress: RequestProgress | None = None) -> None:
        """``progress`` is what ``state`` has resumed; KV that it names is taken up."""
        self.states[state.request_id] = state
        self.num_unfinished += 1
        if progress is not None and self._restoration.restore(state, progress):
            self.admission.returning[state.request_id] = state
        else:
            self.admission.waiting.add(state)

    # --- into a micro-batch

    def admit(self, request_id: int, micro_batch_id: int, draft: MessageDraft) -> None:
        """A waiting or returning request joins ``micro_batch_id``, with what it finds of its KV."""
        state = self.states[request_id]
        if not state.block_ids:
            self._attach_prefix(state, draft)
        self.admission.reserve(state)
        self.sharing.expect(state)
        self._fetch(state, micro_batch_id, draft)

    def _attach_prefix(self, state: RequestState, draft: MessageDraft) -> None:
        block_ids = self.sharing.find(state)
        tiers = [self._manager.tier_of(block_id) for block_id in block_ids]
        state.num_shared_blocks = self.residency.attach(state, block_ids)
        state.num_committed_blocks = state.num_stored_blocks = len(block_ids)
        state.num_computed_tokens = len(block_ids) * self._config.block_tokens
        if self._manager.has_host_tier:
            self._back_up(state, draft)
        state.num_ever_computed = max(state.num_ever_computed, state.num_computed_tokens)
        if state.status is RequestStatus.WAITING:
            num_full_blocks = (state.num_prompt_tokens - 1) // self._config.block_tokens
            num_found = len(state.block_ids)
            self.accounting.note_lookup(tiers[:num_found], num_full_blocks - num_found)
            self.accounting.num_cached_tokens += state.num_computed_tokens
            state.num_cached_tokens = state.num_computed_tokens

    def _back_up(self, state: RequestState, draft: MessageDraft) -> None:
        """A found block may have lost its HOST copy while nobody used it: everything that runs has
        one, so it is stored again, or computed again if HOST has no room."""
        num_slots = self._manager.num_available_host_slots
        unstored = [b for b in state.on_device if not self._manager.is_on_host(b)]
        if len(unstored) > num_slots:
            self.cut(state, state.block_ids.index(unstored[num_slots]))
        job = self._manager.order_store(unstored[:num_slots])
        if job is not None:
            draft.stores.append(job)

    def _fetch(self, state: RequestState, micro_batch_id: int, draft: MessageDraft) -> None:
        """What lies on NVME comes up first; without room for it on HOST it is computed again."""
        unavailable = self.transit.unavailable(state)
        if unavailable and not self.transit.arrive(state, draft):
            self.cut(state, state.block_ids.index(unavailable[0]))
            unavailable = []
        self.transit.lift(state, draft)
        state.status = RequestStatus.RUNNING
        if not unavailable:
            self._join(state, micro_batch_id)

    def _join(self, state: RequestState, micro_batch_id: int) -> None:
        self.accounting.note_restored(state)
        self.micro_batches.add(state, micro_batch_id)

    def fetch_again(self, state: RequestState, draft: MessageDraft) -> None:
        """Some of a running request's KV has moved down to NVME with another request's."""
        state.needs_fetch = False
        micro_batch_id = self.micro_batches.remove(state)
        self._fetch(state, micro_batch_id, draft)

    # --- out of it, to come back

    def preempt(self, state: RequestState, kind: PreemptionKind) -> None:
        """Now, or as soon as nothing of it is in flight. A parked request gives up what it still
        has on HOST: blocks that others shared when it left."""
        if state.num_in_flight:
            state.preemption = kind
            self.marked[state.request_id] = state
            return
        self.marked.pop(state.request_id, None)
        state.preemption = None
        if state.status is RequestStatus.RUNNING:
            self.accounting.note_preemption(kind)
            self.micro_batches.remove(state)
            self.sharing.forget(state)
            self.admission.release(state)
        state.status = RequestStatus.PREEMPTED
        if kind is PreemptionKind.MOVE:
            self.admission.returning.pop(state.request_id, None)
            self.transit.leave(state)
        else:
            self._give_up_kv(state)

    def _give_up_kv(self, state: RequestState) -> None:
        self.cut(state, 0)
        state.num_shared_blocks = 0
        self.admission.returning[state.request_id] = state

    def advance_transit(self, draft: MessageDraft) -> bool:
        """One step for all requests whose KV is on its way to NVME or back; whether any of them
        has reached its end."""
        if self.transit.is_empty:
            return False
        parked, stranded = self.transit.advance_leaving(draft)
        for state in parked:
            state.status = RequestStatus.PARKED
            self.admission.returning[state.request_id] = state
        for state in stranded:
            self._give_up_kv(state)
        arrived = self.transit.take_arrived()
        for state in arrived:
            self._join(state, self.micro_batches.lightest())
        return bool(parked or stranded or arrived)

    # --- backwards

    def cut(self, state: RequestState, num_blocks: int) -> None:
        """Keep the first ``num_blocks`` blocks; what follows is computed again."""
        self.residency.release(state, num_blocks)
        num_tokens = num_blocks * self._config.block_tokens
        num_lost = max(0, state.num_computed_tokens - num_tokens)
        state.num_computed_tokens -= num_lost
        self.micro_batches.note_computed(state.micro_batch_id, -num_lost)
        state.num_committed_blocks = min(state.num_committed_blocks, num_blocks)
        state.num_stored_blocks = min(state.num_stored_blocks, num_blocks)
        state.stored_tail_tokens = -1

    def note_completed(self, completed: Sequence[CompletedCopy]) -> None:
        """Copies that all stages have reported."""
        self.accounting.note_copies(completed)
        self.transit.note_completed(completed)
        for copy in completed:
            if copy.target is Tier.NVME:
                self.residency.note_demoted(copy.block_ids)
            elif copy.source is Tier.DEVICE:
                self.residency.note_stored(copy.block_ids)
            self.cut_at_lost_blocks(copy.lost_block_ids)

    def cut_at_lost_blocks(self, lost_block_ids: Iterable[int]) -> None:
        """The content of these blocks is gone: every holder goes back to its first one."""
        for block_id in lost_block_ids:
            self.accounting.num_invalidated_blocks += 1
            for holder in self.residency.holders(block_id):
                self.cut(holder, holder.block_ids.index(block_id))

    # --- the end

    def take_output(self, plan: Plan, sampled: Mapping[int, SampledToken]) -> None:
        """The rows of ``plan`` are through, with a token each that asked for one. Raises
        InvariantError without it."""
        states, take_token, running = self.states, self.take_token, _RUNNING
        for row in plan.stage_input.scheduled:
            request_id = row.request_id
            state = states[request_id]
            state.num_in_flight -= 1
            if row.needs_sample:
                token = sampled.get(request_id)
                if token is None:
                    raise InvariantError(
                        f"message {plan.sequence}: no token came back for request {request_id}"
                    )
                state.num_unknown_tokens -= 1
                take_token(state, token)
            if state.status is not running or state.preemption is not None:
                self.settle(state)

    def take_token(self, state: RequestState, sampled: SampledToken) -> None:
        """The next output token; dropped if the text has ended before it."""
        if state.status is not _RUNNING and state.is_finished:
            return
        self.accounting.num_generated_tokens += 1
        try:
            reason = append_token(state, sampled)
        except RequestError as error:
            self.finish(state, FinishReason.ERROR, error.code, error.message)
            return
        if reason is None:
            if self.sharing.is_enabled:
                self.sharing.commit(state)
        else:
            self.finish(state, reason)

    def settle(self, state: RequestState) -> None:
        """A row has come back: what had to wait for the last one in flight happens now."""
        if state.num_in_flight:
            return
        if state.is_finished:
            if state.request_id in self.states:
                self.forget(state)
        elif state.preemption is not None:
            self.preempt(state, state.preemption)

    def finish(
        self,
        state: RequestState,
        reason: FinishReason,
        error_code: str | None = None,
        error_message: str | None = None,
    ) -> None:
        """Its text is complete. Its blocks stay while a message in flight still has a row of it."""
        is_error = reason is FinishReason.ERROR
        state.status = RequestStatus.FAILED if is_error else RequestStatus.FINISHED
        self._finished.append(build_finished(state, reason, error_code, error_message))
        self.num_unfinished -= 1
        self.marked.pop(state.request_id, None)
        self.admission.release(state)
        self.admission.note_finished(state)
        self.micro_batches.remove(state)
        self.sharing.forget(state)
        if state.num_in_flight == 0:
            self.forget(state)

    def forget(self, state: RequestState) -> None:
        """Nothing of a finished request is in flight any more."""
        self.residency.release(state)
        self.newly_finished_ids.append(state.request_id)
        del self.states[state.request_id]

    def take_finished(self) -> list[FinishedRequest]:
        finished, self._finished = self._finished, []
        return finished
