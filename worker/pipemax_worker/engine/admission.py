"""Who may start: requests that wait, and preempted ones that want to return."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from pipemax_worker.contract.geometry import Tier, num_blocks_for
from pipemax_worker.contract.request import Request
from pipemax_worker.engine.config import SchedulerConfig
from pipemax_worker.engine.kv_forecast import KVForecast
from pipemax_worker.engine.output_lengths import OutputLengths
from pipemax_worker.engine.prefix_sharing import PrefixSharing
from pipemax_worker.engine.request_state import RequestState
from pipemax_worker.engine.residency import Residency
from pipemax_worker.engine.view import WaitingRequest
from pipemax_worker.engine.waiting_queue import WaitingQueue
from pipemax_worker.errors import RequestError
from pipemax_worker.kvcache.block_manager import BlockManager

_LOOK_AHEAD_REQUESTS = 64


class Admission:
    """Queues, and keeps account of the blocks that running requests may grow to.

    A request reserves the blocks of its prompt and of its *expected* output, the mean of finished
    requests' outputs: the sum over many requests is far better known than any one of them. Where
    the sum is wrong the scheduler preempts.

    waiting       without KV.
    returning     preempted or parked; admitted before anyone who waits, oldest first.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        manager: BlockManager,
        residency: Residency,
        sharing: PrefixSharing,
    ) -> None:
        self.waiting = WaitingQueue(config.order_window or 0)
        self.returning: dict[int, RequestState] = {}
        self.num_running = 0
        self._num_reserved_blocks = 0
        self._num_finished = 0
        self._offered: tuple[WaitingRequest, ...] = ()
        self._offered_at = (-1, -1)
        self._outputs = OutputLengths(config.expected_output_tokens, config.length_prediction)
        self._forecast = KVForecast(
            config.num_micro_batches, config.block_tokens, config.expected_output_tokens
        )
        self._config = config
        self._manager = manager
        self._residency = residency
        self._sharing = sharing

    @property
    def is_empty(self) -> bool:
        return not self.waiting and not self.returning

    @property
    def num_unreserved_blocks(self) -> int:
        return self._config.num_live_blocks - self._num_reserved_blocks

    def check(self, request: Request) -> None:
        """Raise RequestError if ``request`` can never run, with the numbers."""
        max_tokens = request.sampling.max_tokens
        if not request.prompt_token_ids:
            raise RequestError("empty_prompt", "the prompt has no tokens", "body.messages")
        if max_tokens < 1:
            raise RequestError(
                "invalid_value", f"max_tokens is {max_tokens}; at least 1", "body.max_tokens"
            )
        num_tokens = len(request.prompt_token_ids) + max_tokens - 1
        num_blocks = num_blocks_for(num_tokens, self._config.block_tokens)
        if num_blocks > self._config.max_request_blocks:
            raise RequestError(
                "kv_cache_exceeded",
                f"{len(request.prompt_token_ids)} prompt tokens and max_tokens {max_tokens} need "
                f"{num_blocks} blocks of {self._config.block_tokens} tokens; one request can have "
                f"{self._config.max_request_blocks} (device tier: "
                f"{self._config.geometry.num_device_slots}, host tier: "
                f"{self._config.geometry.num_host_slots}). Shorten the prompt, lower max_tokens or "
                "enlarge the KV cache",
                "body.max_tokens",
            )

    # --- what a policy may choose from

    def candidates(self, num_leaving_blocks: int) -> tuple[WaitingRequest, ...]:
        """Those that could be admitted into the message being composed, in order; nobody new while
        preempted requests are still giving up ``num_leaving_blocks``."""
        if self.num_unreserved_blocks <= num_leaving_blocks:
            return ()
        if self.returning:
            found = self._returning_candidates()
        elif num_leaving_blocks == 0:
            found = iter(self._new_candidates())
        else:
            return ()
        max_running = self._config.max_num_running
        if max_running is None:
            return tuple(found)
        return tuple(islice(found, max(0, max_running - self.num_running)))

    def may_admit(self) -> bool:
        """False if ``candidates(0)`` has nobody for whom there is room, whatever the policy. Where
        no prefixes are shared; cheap, and it stays False until a request ends or is added."""
        num_free = self.num_unreserved_blocks
        if self.returning:
            first = self.returning[min(self.returning)]
            if self.num_running:
                num_free = min(num_free, self._residency.num_allocatable()) - self.num_running
        elif self.waiting:
            first = self.waiting.first
        else:
            return False
        return num_free >= max(1, self._projected_blocks(first))

    def _returning_candidates(self) -> Iterator[WaitingRequest]:
        """Only with a block to spare for each running request: or they would be preempted again.

        Counted twice, by reservation and by what is free, since shared blocks are reserved once.
        """
        num_free = min(self.num_unreserved_blocks, self._residency.num_allocatable())
        num_left = num_free - self.num_running
        for request_id in sorted(self.returning):
            state = self.returning[request_id]
            candidate = self._describe(state, state.block_ids or self._sharing.find(state))
            if candidate is None or (self.num_running and candidate.num_blocks > num_left):
                return
            num_left -= candidate.num_blocks
            yield candidate

    def _new_candidates(self) -> Iterable[WaitingRequest]:
        """Those of ``waiting``. What is said of them is the same until one comes or goes or lengths
        are learned, but for the prefixes that they would find."""
        if self._sharing.is_enabled:
            return self._waiting_candidates()
        known_at = (self.waiting.num_changes, self._num_finished)
        if known_at != self._offered_at:
            self._offered_at = known_at
            self._offered = tuple(self._waiting_candidates())
        return self._offered

    def _waiting_candidates(self) -> Iterator[WaitingRequest]:
        num_tokens = 0
        for index, state in enumerate(self.waiting):
            if index >= _LOOK_AHEAD_REQUESTS or num_tokens >= self._config.token_target:
                return
            found = self._sharing.find(state)
            if self._sharing.is_expected(state, len(found)):
                continue
            candidate = self._describe(state, found)
            if candidate is None:
                return
            num_tokens += candidate.num_remaining_tokens
            yield candidate

    def _describe(self, state: RequestState, block_ids: Sequence[int]) -> WaitingRequest | None:
        """As it runs from ``block_ids`` on, which it holds or would find; None if HOST has no room
        for what must be promoted first."""
        if not block_ids:  # of a job's requests nearly all
            return WaitingRequest(
                request_id=state.request_id,
                num_remaining_tokens=len(state.token_ids) - state.num_computed_tokens,
                num_computed_tokens=state.num_computed_tokens,
                num_blocks=max(1, self._projected_blocks(state)),
                can_start=True,
                num_expected_tokens=int(self.expected_tokens(state)),
            )
        tiers = [self._manager.tier_of(block_id) for block_id in block_ids]
        if tiers.count(Tier.NVME) > self._manager.num_available_host_slots:
            return None
        num_computed = state.num_computed_tokens or len(block_ids) * self._config.block_tokens
        num_held = 0
        if not state.block_ids:
            num_held = sum(block_id in self._residency.held for block_id in block_ids)
        return WaitingRequest(
            request_id=state.request_id,
            num_remaining_tokens=len(state.token_ids) - num_computed,
            num_computed_tokens=num_computed,
            num_blocks=max(1, self._projected_blocks(state) - num_held),
            can_start=all(tier is Tier.DEVICE for tier in tiers),
            num_expected_tokens=int(self.expected_tokens(state)),
        )

    # --- reservations

    def parked(self) -> list[RequestState]:
        """Returning requests that have kept their KV."""
        return [state for state in self.returning.values() if state.block_ids]

    def reserve(self, state: RequestState) -> None:
        """``state``, with the blocks it has found, leaves its queue."""
        self.waiting.remove(state.request_id)
        self.returning.pop(state.request_id, None)
        state.num_projected_blocks = max(1, self._projected_blocks(state) - state.num_shared_blocks)
        self._num_reserved_blocks += state.num_projected_blocks
        self._forecast.add(state.request_id, len(state.token_ids), self.expected_tokens(state))
        self.num_running += 1

    def note_growth(self, state: RequestState, num_blocks: int | None = None) -> None:
        """It has been given blocks; beyond what it had reserved they are reserved now.
        ``num_blocks``: all that it has, if it is owed some of them."""
        if num_blocks is None:
            num_blocks = len(state.block_ids)
        num_own_blocks = num_blocks - state.num_shared_blocks
        num_more = max(0, num_own_blocks - state.num_projected_blocks)
        state.num_projected_blocks += num_more
        self._num_reserved_blocks += num_more

    def release(self, state: RequestState) -> None:
        """It does not run any more."""
        self._num_reserved_blocks -= state.num_projected_blocks
        state.num_projected_blocks = 0
        self._forecast.remove(state.request_id)
        self.num_running -= 1

    def note_finished(self, state: RequestState) -> None:
        """Learn from a finished request how long outputs are."""
        self._num_finished += 1
        self._outputs.note_finished(state.num_output_tokens, state.request.sampling.max_tokens)

    def note_turn(self) -> None:
        """A message with rows is sent."""
        self._forecast.note_turn()

    def forecast(self, requests: Sequence[tuple[int, int]]) -> int:
        """Most tokens of KV at a time if ``requests``, (tokens, expected ones), run as well."""
        return self._forecast.peak_tokens(requests, self._outputs.excess_tokens)

    def expected_tokens(self, state: RequestState) -> float:
        """Of output that ``state`` has still to generate; at least one."""
        max_tokens = state.request.sampling.max_tokens
        expected = self._outputs.expected_tokens(max_tokens, state.request_id)
        return max(1.0, expected - state.num_output_tokens)

    def _projected_blocks(self, state: RequestState) -> int:
        expected = self._outputs.mean_tokens * self._config.growth_reserve_ratio
        num_tokens = max(state.num_prompt_tokens + int(expected), len(state.token_ids) + 1)
        num_tokens = min(num_tokens, state.max_num_tokens)
        return num_blocks_for(num_tokens, self._config.block_tokens)
