"""The numbers a scheduler is built with."""

from __future__ import annotations

import enum

import msgspec

from pipemax_worker.contract.geometry import KVGeometry, Tier
from pipemax_worker.engine.output_lengths import LengthPrediction


class HostEviction(enum.Enum):
    """Whose KV is moved to NVME, or given up, first. Whoever leaves comes back when running ones
    have made room, the oldest first: so the next use of each is known.

    NEXT_USE   who is used latest: parked ones, then the youngest that runs.
    LRU        who has run least recently: with micro-batches that take turns, who is used soonest.
               To compare with.
    """

    NEXT_USE = "next-use"
    LRU = "lru"


class SchedulerConfig(msgspec.Struct, frozen=True):
    """Fixed for the life of a pipeline.

    num_micro_batches         that take turns; requests belong to one of them at a time.
    max_batched_tokens        of one message: the stages' buffers.
    target_batched_tokens     up to which prompt tokens are fused into a step; None: the maximum.
                              The knee of the step cost is a good value.
    max_num_requests          rows of one message: the stages' buffers.
    max_num_running           requests that hold KV at a time; None: what the tiers can hold.
    run_ahead                 schedule a decoding request once more while its token is in flight.
    feedback_depth            messages in flight that the token feedback ring can hold.
    prefix_sharing            index full blocks and reuse them for prompts with the same head.
    expected_output_tokens    of a request, until the mean of finished ones is known.
    length_prediction         where the expected lengths of outputs come from.
    growth_reserve_ratio      of the expected output for which room is kept at admission; below 1
                              admits more and preempts more.
    order_window              later requests that may overtake one because their outputs may become
                              longer; 0: in order of arrival; None: as the policy has it.
    max_tail_ratio            share of the device tier that unfilled last blocks of rotated requests
                              may take before they are stored as well.
    static_prefetch_ratio     share of the device tier that is loaded beside every step, whatever
                              there is time for; None: what there is time for. To compare with.
    balances_counts           even micro-batches out by requests, not by predicted time; likewise.
    host_eviction             whose KV leaves the host tier where it runs short.
    """

    geometry: KVGeometry
    num_micro_batches: int
    max_batched_tokens: int = 512
    target_batched_tokens: int | None = None
    max_num_requests: int = 256
    max_num_running: int | None = None
    run_ahead: bool = False
    feedback_depth: int = 64
    prefix_sharing: bool = True
    expected_output_tokens: int = 256
    growth_reserve_ratio: float = 1.0
    order_window: int | None = None
    max_tail_ratio: float = 0.1
    static_prefetch_ratio: float | None = None
    balances_counts: bool = False
    length_prediction: LengthPrediction = LengthPrediction.LEARNED
    host_eviction: HostEviction = HostEviction.NEXT_USE

    @property
    def block_tokens(self) -> int:
        return self.geometry.block_tokens

    @property
    def token_target(self) -> int:
        target = self.target_batched_tokens
        return self.max_batched_tokens if target is None else min(target, self.max_batched_tokens)

    @property
    def max_in_flight(self) -> int:
        """Messages in flight: one a micro-batch, and one more where the driver runs ahead."""
        return max(1, min(self.num_micro_batches + self.run_ahead, self.feedback_depth))

    @property
    def static_prefetch_bytes(self) -> int | None:
        """What ``static_prefetch_ratio`` is of a stage's device tier."""
        if self.static_prefetch_ratio is None:
            return None
        return int(self.static_prefetch_ratio * self.geometry.num_device_slots) * self.slot_bytes

    @property
    def slot_bytes(self) -> int:
        """Bytes of one block on the stage that holds most of it: its link is the slowest."""
        return max(self.geometry.slot_bytes(stage) for stage in range(self.geometry.num_stages))

    @property
    def num_live_blocks(self) -> int:
        """Blocks that requests can hold at a time: each needs a HOST slot where there is a host
        tier, a DEVICE slot where there is none."""
        return self.geometry.num_host_slots or self.geometry.num_device_slots

    @property
    def max_request_blocks(self) -> int:
        """Blocks of the longest request that can run: all of it is on the device for its turn."""
        return min(self.geometry.num_slots(Tier.DEVICE), self.num_live_blocks)
