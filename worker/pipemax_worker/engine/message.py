"""The message being composed, and the plan it becomes."""

from __future__ import annotations

import msgspec

from pipemax_worker.contract.messages import NewRequest, ScheduledRequest, StageInput
from pipemax_worker.contract.transfers import CopyJob, pack_int32
from pipemax_worker.engine.request_state import RequestState
from pipemax_worker.performance.batch_shape import BatchShape, count_prompt_pairs


class Plan(msgspec.Struct, frozen=True):
    """A decided turn: what the stages are told, and whether the last one samples anything.

    num_prefill_tokens   of rows with more than one new token.
    """

    stage_input: StageInput
    shape: BatchShape
    expects_output: bool
    num_prefill_tokens: int = 0

    @property
    def sequence(self) -> int:
        return self.stage_input.sequence


class MessageDraft:
    """Collects one message. Copies ordered before a message is sent wait here for it."""

    def __init__(self) -> None:
        self.rows: list[ScheduledRequest] = []
        self.states: list[RequestState] = []
        self.num_sampled = 0
        self.num_tokens = 0
        self.num_kv_tokens = 0
        self.num_prompt_pairs = 0
        self.num_prefill_tokens = 0
        self.new_requests: list[NewRequest] = []
        self.finished_ids: list[int] = []
        self.stores: list[CopyJob] = []
        self.prefetch: list[CopyJob] = []
        self.background: list[CopyJob] = []

    @property
    def has_copies(self) -> bool:
        return bool(self.stores or self.prefetch or self.background)

    @property
    def shape(self) -> BatchShape:
        return BatchShape(
            self.num_tokens, self.num_kv_tokens, len(self.rows), self.num_prompt_pairs
        )

    def add_row(self, state: RequestState, num_new_tokens: int, device_slots: bytes) -> bool:
        """Append the next ``num_new_tokens`` of ``state``, introduced to the stages if it is new;
        returns whether a token is sampled."""
        if not state.is_known_to_stages:
            state.is_known_to_stages = True
            self.new_requests.append(_introduce(state))
        start, known = state.num_computed_tokens, state.token_ids
        end = start + num_new_tokens
        token_ids = None if start >= len(known) else pack_int32(known[start:end])
        needs_sample = end == len(known) + state.num_unknown_tokens
        row = ScheduledRequest(
            state.request_id, start, num_new_tokens, token_ids, device_slots, needs_sample
        )
        self.rows.append(row)
        self.states.append(state)
        self.num_sampled += needs_sample
        self.num_tokens += num_new_tokens
        self.num_kv_tokens += end
        if num_new_tokens > 1:
            self.num_prefill_tokens += num_new_tokens
            self.num_prompt_pairs += count_prompt_pairs(start, num_new_tokens)
        return needs_sample

    def count_decoding(self, num_rows: int, num_kv_tokens: int) -> None:
        """As many of ``rows``, put there by hand, have one new token, which is sampled from; their
        ends add up to ``num_kv_tokens``."""
        self.num_sampled += num_rows
        self.num_tokens += num_rows
        self.num_kv_tokens += num_kv_tokens

    def build(self, sequence: int, micro_batch_id: int) -> Plan:
        stage_input = StageInput(
            sequence=sequence,
            micro_batch_id=micro_batch_id,
            new_requests=tuple(self.new_requests),
            finished_ids=tuple(self.finished_ids),
            scheduled=tuple(self.rows),
            stores_after=tuple(self.stores),
            prefetch=tuple(self.prefetch),
            background=tuple(self.background),
        )
        return Plan(stage_input, self.shape, self.num_sampled > 0, self.num_prefill_tokens)


def _introduce(state: RequestState) -> NewRequest:
    num_prompt_tokens = state.num_prompt_tokens
    return NewRequest(
        request_id=state.request_id,
        prompt_token_ids=pack_int32(state.token_ids[:num_prompt_tokens]),
        output_token_ids=pack_int32(state.token_ids[num_prompt_tokens:]),
        sampling=state.request.sampling,
        seed=state.request.seed,
    )
