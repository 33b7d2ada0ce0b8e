"""What the scheduler knows of one request. Written by the scheduler and its parts alone."""

from __future__ import annotations

import enum
from collections.abc import Iterable

from pipemax_worker.contract.geometry import num_blocks_for
from pipemax_worker.contract.request import (
    Request,
    RequestProgress,
    StopChecker,
    TokenLogprobs,
)


class RequestStatus(enum.Enum):
    """WAITING     no KV yet.
    RUNNING     member of a micro-batch, its KV on DEVICE or HOST; or about to be one, while its KV
                is on its way up from NVME.
    PREEMPTED   gave up its KV, or is on its way down to NVME.
    PARKED      its KV is on NVME.
    FINISHED    its text is complete. FAILED: it ended with an error.
    """

    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    PARKED = "parked"
    FINISHED = "finished"
    FAILED = "failed"


_ENDED = (RequestStatus.FINISHED, RequestStatus.FAILED)


class PreemptionKind(enum.Enum):
    """How a request makes room: its KV moves to NVME, or is dropped and computed again."""

    MOVE = "move"
    RECOMPUTE = "recompute"


class RequestState:
    """A request and how far it is.

    request_id               counts up in order of arrival: the smaller, the older.
    token_ids                prompt and known outputs.
    max_known_tokens         of prompt and outputs, at the limit.
    num_computed_tokens      positions whose KV is written by messages up to the last one composed.
    num_ever_computed        its high-water mark: below it, computing is recomputing.
    num_in_flight            messages with a row of this request whose end is not known yet.
    num_unknown_tokens       outputs sampled by messages in flight.
    block_ids                of positions 0..num_computed_tokens - 1, in order.
    on_device                those of ``block_ids`` that have a DEVICE slot, oldest first.
    needs_fetch              some of its blocks have moved down to NVME with another request's.
    is_loading               some, not all, of what it lacked has been loaded for its next turn.
    packed_slots             ``device_slots`` of the last message; None once a block has moved.
    num_shared_blocks        found by prefix and held by others when the request was admitted.
    num_projected_blocks     of its own, for which admission keeps room.
    preemption               decided, and carried out once nothing of it is in flight.
    stored_tail_tokens       ``num_computed_tokens`` when its unfilled block was last stored.
    num_parked_tokens        of an earlier run that are still to be counted as restored.
    """

    __slots__ = (
        "block_hashes",
        "block_ids",
        "is_known_to_stages",
        "is_loading",
        "last_turn",
        "logprobs",
        "max_known_tokens",
        "micro_batch_id",
        "needs_fetch",
        "num_cached_tokens",
        "num_committed_blocks",
        "num_computed_tokens",
        "num_ever_computed",
        "num_in_flight",
        "num_parked_tokens",
        "num_projected_blocks",
        "num_prompt_tokens",
        "num_shared_blocks",
        "num_stored_blocks",
        "num_unknown_tokens",
        "on_device",
        "packed_slots",
        "preemption",
        "request",
        "request_id",
        "status",
        "stop_checker",
        "stored_tail_tokens",
        "token_ids",
    )

    def __init__(
        self, request_id: int, request: Request, stop_checker: StopChecker | None = None
    ) -> None:
        self.request_id = request_id
        self.request = request
        self.stop_checker = stop_checker
        self.status = RequestStatus.WAITING
        self.token_ids = list(request.prompt_token_ids)
        self.num_prompt_tokens = len(self.token_ids)
        self.max_known_tokens = self.num_prompt_tokens + request.sampling.max_tokens
        self.logprobs: list[TokenLogprobs] = []
        self.num_computed_tokens = 0
        self.num_ever_computed = 0
        self.num_cached_tokens = 0
        self.num_in_flight = 0
        self.num_parked_tokens = 0
        self.num_unknown_tokens = 0
        self.block_ids: list[int] = []
        self.block_hashes: list[bytes] = []
        self.on_device: dict[int, None] = {}
        self.packed_slots: bytes | None = b""
        self.num_shared_blocks = 0
        self.num_projected_blocks = 0
        self.num_committed_blocks = 0
        self.num_stored_blocks = 0
        self.stored_tail_tokens = -1
        self.micro_batch_id: int | None = None
        self.last_turn = -1
        self.preemption: PreemptionKind | None = None
        self.is_known_to_stages = False
        self.is_loading = False
        self.needs_fetch = False

    def resume(self, progress: RequestProgress) -> None:
        """Go on after outputs that another engine has generated. Call it once, at the start."""
        self.token_ids += progress.output_token_ids
        self.logprobs += progress.logprobs
        # The last output's KV was not computed yet; without outputs only what was kept is known.
        self.num_ever_computed = progress.num_computed_tokens
        if progress.output_token_ids:
            self.num_ever_computed = len(self.token_ids) - 1
        if self.stop_checker is not None:
            for token_id in progress.output_token_ids:
                self.stop_checker.append(token_id)

    def progress(self) -> RequestProgress:
        """For :meth:`resume` elsewhere; names no KV."""
        return RequestProgress(
            key=self.request.key,
            choice=self.request.choice,
            output_token_ids=tuple(self.token_ids[self.num_prompt_tokens :]),
            logprobs=tuple(self.logprobs),
        )

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_remaining_tokens(self) -> int:
        """Positions to compute before the next token is sampled; 1 for a decoding request."""
        return len(self.token_ids) + self.num_unknown_tokens - self.num_computed_tokens

    @property
    def max_num_tokens(self) -> int:
        """Positions whose KV the request may need: the last output's is never computed."""
        return self.num_prompt_tokens + self.request.sampling.max_tokens - 1

    @property
    def is_finished(self) -> bool:
        return self.status in _ENDED

    @property
    def is_away(self) -> bool:
        """Its KV is not needed for now."""
        return self.status in (RequestStatus.PREEMPTED, RequestStatus.PARKED)

    @property
    def is_resident(self) -> bool:
        """All its blocks are on the device, or ordered to be."""
        return len(self.on_device) == len(self.block_ids)

    def num_new_blocks(self, num_new_tokens: int, block_tokens: int) -> int:
        """Blocks to allocate before ``num_new_tokens`` more are computed."""
        end = self.num_computed_tokens + num_new_tokens
        return num_blocks_for(end, block_tokens) - len(self.block_ids)


def ready_states(states: Iterable[RequestState], run_ahead: bool) -> list[RequestState]:
    """Those whose next tokens can be scheduled, as far as tokens go. With ``run_ahead`` one output
    may be unknown yet, if another one can follow it. All at once: each is asked every turn."""
    running = RequestStatus.RUNNING
    return [
        state
        for state in states
        if state.status is running
        and state.preemption is None
        and (
            (num_unknown := state.num_unknown_tokens) == 0
            or (
                run_ahead
                and num_unknown == 1
                and state.num_computed_tokens == len(state.token_ids)
                and state.num_computed_tokens + 1 < state.max_known_tokens
            )
        )
    ]
